"""What holds for every reward, on tiny random checkpoints in the published layouts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hn.rewards import BrightnessReward, RednessReward, Reward, SaturationReward
from tests.tiny_rewards import TOWERS

PROMPTS = ["a red cube", "two blue ball", "a photo of the green ball"]
NAMES = ("clip", "pickscore", "open_clip", "hpsv2", "aesthetic")  # ImageReward has a file of its own
PIXELS = {"redness": RednessReward, "brightness": BrightnessReward, "saturation": SaturationReward}


@pytest.fixture
def make(make: Callable[..., Reward]) -> Callable[..., Reward]:
    return lambda name, **options: PIXELS[name]() if name in PIXELS else make(name, **options)


def _layers(reward: Reward) -> nn.ModuleList:
    """Of the image tower."""
    model = reward.model
    return model.visual.transformer.resblocks if hasattr(model, "visual") else model.vision_model.encoder.layers


def _gradient(reward: Reward, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_(True)
    scores = reward(images, PROMPTS[: len(images)])
    return scores.detach(), torch.autograd.grad(scores.sum(), images)[0]


@pytest.mark.parametrize("name", [*NAMES, *PIXELS])
def test_gradient_equals_finite_differences(make: Callable[..., Reward], name: str) -> None:
    reward = make(name, dtype="float64")
    images = torch.rand(2, 3, 36, 41, dtype=torch.float64)
    directions = torch.randn(3, *images.shape, dtype=torch.float64)
    scores, gradient = _gradient(reward, images)
    assert scores.dtype == torch.float64
    h = 1e-5
    for direction in directions:
        ahead, behind = (reward(images + s * h * direction, PROMPTS[:2]).sum() for s in (1, -1))
        expected = ((ahead - behind) / (2 * h)).item()
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert abs(expected) > 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TOWERS)
def test_without_weights_a_reward_has_the_shapes_of_the_loaded_one(
    name: str, dtype: str, make: Callable[..., Reward], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make(name, dtype=dtype)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("weights read"))
    if name != "image_reward":  # whose sizes are read off the file
        monkeypatch.setattr("hn.utils.weights.load_file", lambda *_, **__: pytest.fail("weights read"))
        monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("weights read"))
    with torch.device("meta"):
        on_meta = make(name, dtype=dtype)
    own, others = dict(on_meta.named_parameters()), dict(loaded.named_parameters())
    assert {k: (v.shape, v.dtype) for k, v in own.items()} == {k: (v.shape, v.dtype) for k, v in others.items()}
    own, others = own | dict(on_meta.named_buffers()), others | dict(loaded.named_buffers())
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in others.items()}
    assert all(tensor.is_meta for tensor in own.values())
    assert not any(parameter.requires_grad for parameter in on_meta.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_the_images_gets_a_gradient(make: Callable[..., Reward], name: str) -> None:
    reward = make(name)
    images = torch.rand(2, 3, 70, 50, requires_grad=True)
    reward(images, PROMPTS[:2]).sum().backward()
    assert (images.grad.flatten(2).abs().sum(2) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in reward.parameters())
    assert not any(tensor.is_meta for tensor in [*reward.parameters(), *reward.buffers()])
    assert not any(module.training for module in nn.ModuleList([reward]).train()[0].modules())


@pytest.mark.parametrize("name", [*NAMES, *PIXELS])
def test_an_image_is_scored_whatever_its_company(make: Callable[..., Reward], name: str) -> None:
    reward, images = make(name), torch.rand(3, 3, 32, 40)
    alone = torch.cat([reward(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(reward(images, PROMPTS), alone, rtol=1e-4, atol=1e-5)
    assert len(set(alone.tolist())) == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_towers_give_full_precision_scores(
    make: Callable[..., Reward], name: str, autocast: bool
) -> None:
    exact, reward = make(name), make(name, dtype="bfloat16")
    towers = [p for key, p in reward.named_parameters() if not key.startswith("head.")]
    assert {p.dtype for p in towers} == {torch.bfloat16}
    images = torch.rand(3, 3, 48, 48)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores, gradient = _gradient(reward, images)
    assert scores.dtype == gradient.dtype == torch.float32
    expected, _ = _gradient(exact, images)
    spread = {"clip": 16, "open_clip": 15, "pickscore": 100, "hpsv2": 1, "aesthetic": 1}[
        name
    ]  # of cos -1 to 1, times 1/2
    torch.testing.assert_close(scores, expected, rtol=0, atol=0.05 * spread)
    assert (scores != scores.bfloat16()).any()
    of_half = reward(images.bfloat16(), PROMPTS)
    assert of_half.dtype == torch.float32
    torch.testing.assert_close(of_half, reward(images.bfloat16().float(), PROMPTS), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.exact
def test_checkpointed_towers_recompute_and_give_the_same_gradients(make: Callable[..., Reward], name: str) -> None:
    plain, checkpointed = make(name), make(name, gradient_checkpointing=True)
    images = torch.rand(2, 3, 32, 32)
    calls = {"plain": 0, "checkpointed": 0}

    def count(which: str) -> Callable[..., None]:
        return lambda *_: calls.__setitem__(which, calls[which] + 1)

    for layer in _layers(plain):
        layer.register_forward_pre_hook(count("plain"))
    for layer in _layers(checkpointed):
        layer.layer.register_forward_pre_hook(count("checkpointed"))
    for one, other in zip(_gradient(plain, images), _gradient(checkpointed, images), strict=True):
        assert torch.equal(one, other)
    assert calls == {"plain": 2, "checkpointed": 4}
    with torch.no_grad():
        torch.testing.assert_close(checkpointed(images, PROMPTS[:2]), plain(images, PROMPTS[:2]), rtol=1e-5, atol=1e-6)
    assert calls == {"plain": 4, "checkpointed": 6}


@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_towers_keep_fewer_activations(make: Callable[..., Reward], name: str) -> None:
    def kept(reward: Reward) -> int:
        sizes: dict[int, int] = {}
        images = torch.rand(2, 3, 32, 32, requires_grad=True)
        reward(images.detach(), PROMPTS[:2])  # text features

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            reward(images, PROMPTS[:2])
        parameters = {p.untyped_storage().data_ptr() for p in reward.parameters()}
        return sum(size for pointer, size in sizes.items() if pointer not in parameters)

    assert kept(make(name, gradient_checkpointing=True)) < 0.6 * kept(make(name))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "aesthetic"])
def test_prompts_are_encoded_once(make: Callable[..., Reward], name: str) -> None:
    reward, encoded = make(name), []
    encode = reward.encode_prompts
    reward.encode_prompts = lambda prompts: (encoded.append(prompts), encode(prompts))[1]
    images = torch.rand(3, 3, 32, 32)
    first = reward(images, [PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    second = reward(images, [PROMPTS[1], PROMPTS[0], PROMPTS[1]])
    assert encoded == [PROMPTS[:2]] and not torch.equal(first, second)
    reward.to(torch.float64)  # features of another data type
    reward(images, [PROMPTS[0]] * 3)
    assert encoded == [PROMPTS[:2], PROMPTS[:1]]


@pytest.mark.parametrize("name", NAMES)
def test_bad_options_are_refused_before_weights_are_looked_for(name: str) -> None:
    with pytest.raises(ValueError, match="Unknown dtype 'fp32'"):
        TOWERS[name][0](pretrained="/nowhere", dtype="fp32")
    if name != "aesthetic":
        with pytest.raises(ValueError, match="encode_batch_size must be at least 1, not 0"):
            TOWERS[name][0](pretrained="/nowhere", encode_batch_size=0)
