"""Run with `pip install 'hn[quantise]'`; without it only the refusals are tested."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from hn.rewards import RednessReward, Reward, RewardEnsemble
from hn.utils import quantisation
from hn.utils.layers import compile_layers
from hn.utils.quantisation import quantise_linear_layers
from tests import tiny_rewards

PROMPTS = ["a red cube", "two blue ball"]
CLASSES = ("clip", "pickscore", "hpsv2", "aesthetic", "image_reward")


def _quantised(reward: Reward) -> Reward:
    for tower in reward.towers():
        quantise_linear_layers(tower)
    return reward


def _int8_layers(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if hasattr(getattr(layer, "weight", None), "qdata")]


def _gradient(reward: Reward, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_(True)
    scores = reward(images, PROMPTS)
    return scores.detach(), torch.autograd.grad(scores.sum(), images)[0]


@pytest.mark.extras("torchao")
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_are_those_of_the_rounded_weights(
    make: Callable[..., Reward], name: str, gradient_checkpointing: bool
) -> None:
    images = torch.rand(2, 3, 40, 36)
    exact = _gradient(make(name), images)
    reward = _quantised(make(name, gradient_checkpointing=gradient_checkpointing))
    rounded = copy.deepcopy(reward)
    for layer in _int8_layers(rounded):
        layer.weight = nn.Parameter(layer.weight.dequantize(), requires_grad=False)
    assert _int8_layers(reward) and not _int8_layers(rounded)
    scores, gradient = _gradient(reward, images)
    expected = _gradient(rounded, images)
    torch.testing.assert_close(scores, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-4 * expected[1].abs().max().item())
    assert torch.cosine_similarity(gradient.flatten(), exact[1].flatten(), dim=0) > 0.999
    assert not torch.equal(scores, exact[0])
    assert not any(parameter.requires_grad for parameter in reward.parameters())
    with torch.inference_mode():  # Lightning's validation
        torch.testing.assert_close(reward(images, PROMPTS), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.extras("torchao")
def test_checkpointed_layers_do_not_keep_decoded_weights(make: Callable[..., Reward]) -> None:
    def kept(reward: Reward) -> int:
        shapes: list[torch.Size] = []
        images = torch.rand(2, 3, 32, 32, requires_grad=True)
        reward(images.detach(), PROMPTS)  # text features
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (shapes.append(tensor.shape), tensor)[1], lambda tensor: tensor
        ):
            reward(images, PROMPTS)
        width, hidden = 16, 32  # of both matrices of the MLPs, one of which is decoded transposed
        return sum(sorted(shape) == [width, hidden] for shape in shapes)

    assert kept(_quantised(make("clip"))) == 4  # two matrices in two layers
    assert kept(_quantised(make("clip", gradient_checkpointing=True))) == 0


@pytest.mark.extras("torchao")
@pytest.mark.parametrize("name", ["clip", "hpsv2"])
def test_quantised_towers_compile(make: Callable[..., Reward], name: str) -> None:
    torch.compiler.reset()
    reward, images = _quantised(make(name)), torch.rand(2, 3, 32, 32)
    expected = _gradient(reward, images)
    compile_layers(reward.image_layers(), backend="aot_eager")
    for one, other in zip(_gradient(reward, images), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.extras("torchao")
def test_heads_embeddings_and_attention_of_torch_stay_as_they_are(make: Callable[..., Reward]) -> None:
    image_reward = _quantised(make("image_reward")).model
    assert not _int8_layers(image_reward.mlp)
    assert not _int8_layers(_quantised(make("aesthetic")).head)
    resblocks = _quantised(make("hpsv2")).model.visual.transformer.resblocks
    assert {type(layer) for layer in _int8_layers(resblocks)} == {nn.Linear} and len(_int8_layers(resblocks)) == 4
    tied = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "out": nn.Linear(3, 5), "own": nn.Linear(3, 3)})
    tied["out"].weight = tied["embedding"].weight
    quantise_linear_layers(tied)
    assert tied["out"].weight is tied["embedding"].weight and _int8_layers(tied) == [tied["own"]]
    quantise_linear_layers(tied)  # done already
    assert _int8_layers(tied) == [tied["own"]]


@pytest.mark.extras("torchao")
def test_an_ensemble_quantises_all_towers_or_those_named(make: Callable[..., Reward]) -> None:
    def ensemble(quantise: Any) -> RewardEnsemble:
        rewards = {"clip": make("clip", dtype="bfloat16"), "red": RednessReward()}
        return RewardEnsemble(rewards, {"clip": 0.01, "red": 1.0}, {"hpsv3": make("hpsv3")}, quantise=quantise)

    everything, named, images = ensemble("int8"), ensemble({"hpsv3": "int8"}), torch.rand(2, 3, 64, 64)
    assert _int8_layers(everything.rewards["clip"]) and _int8_layers(everything.held_out["hpsv3"])
    assert not _int8_layers(named.rewards["clip"]) and _int8_layers(named.held_out["hpsv3"])
    scores = named.score_held_out(images, PROMPTS)["hpsv3"]
    torch.testing.assert_close(scores, everything.score_held_out(images, PROMPTS)["hpsv3"])
    assert 0 < (scores - ensemble(None).score_held_out(images, PROMPTS)["hpsv3"]).abs().max() < 0.05
    images.requires_grad_()
    everything.total(images, PROMPTS).sum().backward()
    assert images.grad.any()


@pytest.mark.extras("torchao")
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_data_types_are_refused(make: Callable[..., Reward], dtype: str) -> None:
    with pytest.raises(ValueError, match=f"clip cannot be quantised: Weights of torch.{dtype} are not quantised"):
        RewardEnsemble({"clip": make("clip", dtype=dtype)}, quantise="int8")


@pytest.mark.parametrize(
    ("quantise", "message"),
    [
        ("int8", r"nothing to quantise: \['red'\] have no towers"),
        ({"blue": "int8"}, r"unknown rewards \['blue'\]; the rewards are \['red'\]"),
        ({"red": "fp8"}, r"Unknown quantisation \['fp8'\]; choose 'int8'"),
    ],
)
def test_what_cannot_be_quantised_is_refused(quantise: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardEnsemble({"red": RednessReward()}, quantise=quantise)


def test_a_missing_torchao_is_said(make: Callable[..., Reward], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install 'hn\\[quantise\\]'"):
        RewardEnsemble({"clip": make("clip")}, quantise="int8")


@pytest.mark.extras("torchao")
@pytest.mark.parametrize("quantise", ["int8", {"clip": "int8"}])
def test_both_options_can_be_written_in_a_config(tmp_path: Path, quantise: Any) -> None:
    clip = {"class_path": "hn.rewards.clip.ClipReward", "init_args": tiny_rewards.clip(tmp_path)}
    parser = ArgumentParser()
    parser.add_argument("--reward", type=RewardEnsemble)
    arguments = {"rewards": {"clip": clip}, "quantise": quantise, "compile": True}
    section = {"class_path": "hn.rewards.ensemble.RewardEnsemble", "init_args": arguments}
    ensemble = parser.instantiate(parser.parse_object({"reward": section})).reward
    assert _int8_layers(ensemble.rewards["clip"])
