"""The numbers of the published implementation on a tiny SANA-Sprint, whose LoRA is dense on depthwise convolutions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hn.hypernets import LoraHypernet
from hn.hypernets.lora_layers import GroupedConvLora
from hn.objective import ObjectiveTerms, noise_hypernetwork_loss
from hn.rewards import RednessReward
from tests import published as tiny
from tests.published import trainable


@pytest.fixture(scope="module")
def published(fixtures: Path) -> dict[str, Any]:
    folder = fixtures / "sana"
    return {
        **json.loads((folder / "metrics.json").read_text()),
        **load_file(folder / "outputs_nonzero.safetensors"),
        "init": load_lora(folder / "lora_nonzero_init.safetensors"),
        "gradients": load_lora(folder / "grads_nonzero_l2.safetensors"),
        "after": {n: load_lora(folder / f"lora_nonzero_sgd_after{n}.safetensors") for n in (1, 5)},
    }


def load_lora(path: Path) -> dict[str, Tensor]:
    return trainable(load_file(path))


@pytest.fixture
def hypernet(sana, published: dict[str, Any]) -> LoraHypernet:
    hypernet = LoraHypernet(rank=4, alpha=8).build(sana)
    hypernet.load_trainable_state_dict(published["init"])
    return hypernet


def distance(tensors: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor] | None = None) -> float:
    """|tensors - expected| / |expected - start|, all of them as one vector; start is 0 if not given."""
    assert tensors.keys() == expected.keys()
    error = sum((tensors[name] - expected[name]).square().sum() for name in expected)
    size = sum((expected[name] - (start[name] if start else 0)).square().sum() for name in expected)
    return (error / size).sqrt().item()


def step(hypernet: LoraHypernet, inputs: tuple[Tensor, dict[str, Tensor]]) -> ObjectiveTerms:
    x0, conditioning = inputs
    f = hypernet(x0, conditioning)
    images = hypernet.generator.generate(x0 + f, conditioning)
    return noise_hypernetwork_loss(RednessReward()(images, [""] * len(x0)), f)


def test_every_published_weight_has_its_layer(sana, published: dict[str, Any]) -> None:
    hypernet = LoraHypernet(rank=4).build(sana)
    shapes = {name: tensor.shape for name, tensor in hypernet.trainable_state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in published["init"].items()}
    assert sum(isinstance(module, GroupedConvLora) for module in hypernet.modules()) == 2


def test_f_modulated_noise_and_images(sana, hypernet: LoraHypernet, sana_inputs, published: dict[str, Any]) -> None:
    x0, conditioning = sana_inputs
    modulated = hypernet.modulate(x0, conditioning)
    close = {"atol": 2e-5, "rtol": 0}
    torch.testing.assert_close(modulated - x0, published["pred_latents"], **close)
    torch.testing.assert_close(modulated, published["modulated_latents"], **close)
    torch.testing.assert_close(sana.generate(modulated, conditioning), published["image_1step"], **close)
    torch.testing.assert_close(sana.generate(x0, conditioning), published["image_1step_base"], **close)


def test_losses_and_gradients(hypernet: LoraHypernet, sana_inputs, published: dict[str, Any]) -> None:
    terms = step(hypernet, sana_inputs)
    assert -terms.reward.item() == pytest.approx(published["redness"], rel=1e-5)
    assert terms.regulariser.item() == pytest.approx(published["reg_l2"] / 2, rel=1e-5)
    assert terms.loss.item() == pytest.approx(published["total_l2"], rel=1e-5)
    terms.loss.backward()
    gradients = {name: p.grad for name, p in hypernet.named_parameters() if p.requires_grad}
    assert gradients.keys() == published["gradients"].keys()
    # One rounding error of x0 moves them by 6e-5: a ReLU's zero lies close by.
    assert distance(gradients, published["gradients"]) <= 1e-4
    for name, expected in published["gradients"].items():
        assert distance({name: gradients[name]}, {name: expected}) <= 5e-3, name


def test_five_updates(hypernet: LoraHypernet, sana_inputs, published: dict[str, Any]) -> None:
    parameters = [p for p in hypernet.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    for update, metrics in enumerate(published["traj_sgd"], start=1):
        terms = step(hypernet, sana_inputs)
        # Rounding errors have grown by the fifth: those of x0 alone then move the loss by 1e-5.
        relative = 1e-5 if update < 5 else 5e-5
        assert terms.loss.item() == pytest.approx(metrics["total"], rel=relative)
        assert -terms.reward.item() == pytest.approx(metrics["Redness"], rel=relative)
        terms.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        assert norm.item() == pytest.approx(metrics["grad_norm"], rel=5e-3)
        optimizer.step()
        optimizer.zero_grad()
        if update in published["after"]:
            weights = hypernet.trainable_state_dict()
            assert distance(weights, published["after"][update], published["init"]) <= 5e-3


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.exact
def test_an_untrained_hypernetwork_changes_nothing(sana, sana_inputs, steps: int) -> None:
    x0, conditioning = sana_inputs
    hypernet = LoraHypernet(rank=5).build(sana)  # a rank that no depthwise convolution of PEFT's would take
    images = [
        sana.generate(noise, conditioning, steps, torch.Generator().manual_seed(0))
        for noise in (x0, hypernet.modulate(x0, conditioning))
    ]
    assert torch.equal(*images)


def test_checkpointed_gradients_equal_plain_ones(sana, sana_inputs, published: dict[str, Any]) -> None:
    gradients = []
    for checkpointed in (False, True):
        hypernet = LoraHypernet(rank=4, gradient_checkpointing=checkpointed).build(sana)
        hypernet.load_trainable_state_dict(published["init"])
        step(hypernet, sana_inputs).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in hypernet.parameters() if p.requires_grad]))
    assert (gradients[1] - gradients[0]).norm() <= 1e-6 * gradients[0].norm()


def test_gradients_of_the_dense_lora_equal_finite_differences(sana_inputs, published: dict[str, Any]) -> None:
    x0, conditioning = sana_inputs[0].double(), {**sana_inputs[1]}
    conditioning["prompt_embeds"] = conditioning["prompt_embeds"].double()
    hypernet = LoraHypernet(rank=4).build(tiny.sana(torch.float64))
    hypernet.load_trainable_state_dict(published["init"])
    weights = [p for name, p in hypernet.named_parameters() if "conv_depth.lora_" in name]
    gradients = torch.autograd.grad(hypernet(x0, conditioning).square().mean(), weights)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    h, losses = 1e-4, []  # no smaller: SANA's attention computes in float32, whatever the weights are
    with torch.no_grad():
        for move in (h, -2 * h):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(move * gradient / norm)
            losses.append(hypernet(x0, conditioning).square().mean())
    assert norm > 0.1
    assert (norm - (losses[0] - losses[1]) / (2 * h)).abs() <= 1e-4 * norm
