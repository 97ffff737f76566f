from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hn.generators import DiffusersGenerator
from hn.generators.subspaces import LowFrequency
from hn.hypernets import LoraFinetune, LoraHypernet
from hn.hypernets.subspace import SubspaceHypernet
from hn.rewards import JpegSizeReward, RednessReward, RewardEnsemble
from hn.training.estimators import ScoreFunction
from hn.training.module import NoiseHypernetModule
from hn.training.planning.encoding import fake_conditioning
from hn.training.planning.fake import fake_copy, weight_bytes
from hn.training.planning.live_memory import LiveMemory
from hn.training.planning.update import UpdateMemory, update_memory, without_reports
from hn.utils.quantisation import quantise_linear_layers
from tests.tiny_pipelines import CASES, NETWORKS, WINDOW

WITHOUT_GRADIENTS = "generator, decoder and rewards, without gradients"
PROMPTS = ["a red cube", "two blue ball"]


def count(module: NoiseHypernetModule, fake: bool, copies: int = 1, precision: str = "32-true") -> UpdateMemory:
    prompts = PROMPTS * copies
    conditioning = module.generator.encode(prompts)
    module.reward(torch.zeros(len(prompts), 3, 32, 32), prompts)  # text features: known before, as in training
    if not fake:
        return update_memory(module, conditioning, prompts, precision, nullcontext())
    module.generator.start  # noqa: B018 - computed from values
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        conditioning = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in conditioning.items()}
    return update_memory(fake_copy(module, mode), conditioning, prompts, precision, mode)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("hypernet", [LoraHypernet, LoraFinetune])
def test_fake_tensors_take_what_real_ones_take(
    make_module: Callable[..., NoiseHypernetModule], hypernet: type, precision: str
) -> None:
    module = make_module(hypernet(rank=2))
    real, fake = (count(module, fake, precision=precision) for fake in (False, True))
    assert fake.kept.keys() == real.kept.keys() == {"hypernetwork", "generator", "decoder", "rewards"}
    for name, size in real.kept.items():
        assert fake.kept[name] == pytest.approx(size, rel=0.02, abs=2048)
    assert fake.peak == pytest.approx(real.peak, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_family_takes_as_much_on_fake_tensors(name: str) -> None:
    """Two steps of its own sampler and scheduler, with prompts of different lengths."""
    case = CASES[name]
    pipe = case.build()
    options = {"height": case.size[0], "width": case.size[1], "family": case.family, "steps": 2}
    generator = DiffusersGenerator.from_pipeline(pipe, **options)
    module = NoiseHypernetModule(generator, LoraHypernet(rank=2), RewardEnsemble({"redness": RednessReward()}))
    prompts = ["a red cube", "two blue ball and a green cube"]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    conditioning, encoding = fake_conditioning(generator.family, pipe, prompts, mode)
    copied = fake_copy(module, mode)
    encoded = generator.encode(prompts)
    assert {k: (v.shape, v.dtype) for k, v in conditioning.items()} == {
        k: (v.shape, v.dtype) for k, v in encoded.items()
    }
    assert encoding > sum(value.nbytes for value in encoded.values())
    real = update_memory(module, encoded, prompts, "32-true", nullcontext())
    fake = update_memory(copied, conditioning, prompts, "32-true", mode)
    for stage, size in real.kept.items():
        assert fake.kept[stage] == pytest.approx(size, rel=0.02)
    assert fake.peak == pytest.approx(real.peak, rel=0.01)


@pytest.mark.slow
@pytest.mark.extras("torchao")
def test_quantised_rewards_take_what_they_take(make_module: Callable[..., NoiseHypernetModule]) -> None:
    module = make_module()
    clip = module.reward.rewards["clip"]
    whole = weight_bytes(clip)
    linear = [layer for layer in clip.modules() if type(layer) is nn.Linear]
    matrices = sum(layer.weight.numel() for layer in linear)
    scales = sum(layer.out_features for layer in linear)
    quantise_linear_layers(clip.model)
    in_bytes = weight_bytes(clip) - (whole - 4 * matrices)
    assert matrices + 4 * scales <= in_bytes <= matrices + 8 * scales  # a scale for each row, and perhaps a zero point
    assert weight_bytes(fake_copy(clip, FakeTensorMode(allow_non_fake_inputs=True))) == weight_bytes(clip)
    real, fake = (count(module, fake) for fake in (False, True))
    assert fake.kept == pytest.approx(real.kept, rel=0.02, abs=2048)
    assert fake.peak == pytest.approx(real.peak, rel=0.03)


@pytest.mark.slow
def test_a_reward_that_leaves_tensors_is_not_followed(make_module: Callable[..., NoiseHypernetModule]) -> None:
    module = make_module()
    plain = count(module, fake=True)
    rewards = {"jpeg_size": JpegSizeReward(), **module.reward.rewards}
    module.reward = RewardEnsemble(rewards, {"jpeg_size": 0.0, **module.reward.weights})
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    copied = without_reports(fake_copy(module, mode))
    assert isinstance(module.reward.rewards["jpeg_size"], JpegSizeReward)
    conditioning = {"prompt_embeds": torch.empty(2, WINDOW, 12)}
    with mode:
        conditioning = {name: torch.empty(value.shape) for name, value in conditioning.items()}
    assert update_memory(copied, conditioning, PROMPTS, "32-true", mode).peak == pytest.approx(plain.peak, rel=0.03)


@pytest.mark.slow
def test_a_pass_through_the_sampler_keeps_as_much(make_module: Callable[..., NoiseHypernetModule]) -> None:
    module = make_module(steps=2)
    conditioning = module.generator.encode(PROMPTS)
    counted = count(module, fake=True)
    with LiveMemory([*module.parameters(), *module.buffers(), *conditioning.values()]) as memory:
        images, f = module(torch.randn(2, *module.generator.noise_shape), conditioning, rng=torch.Generator())
        kept = memory.now
    assert images.requires_grad
    assert f.requires_grad
    assert sum(counted.kept.values()) - counted.kept["rewards"] == pytest.approx(kept, rel=0.02)


@pytest.mark.slow
def test_memory_grows_by_the_same_with_every_image(make_module: Callable[..., NoiseHypernetModule]) -> None:
    peaks = [count(make_module(), fake=True, copies=copies).peak for copies in (1, 2, 3)]
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=0.01)
    assert peaks[1] > 1.8 * peaks[0]


@pytest.mark.slow
def test_checkpointing_keeps_less(make_module: Callable[..., NoiseHypernetModule]) -> None:
    plain, checkpointed = (
        count(make_module(LoraHypernet(rank=2, gradient_checkpointing=on)), fake=True) for on in (False, True)
    )
    assert checkpointed.kept["hypernetwork"] < 0.7 * plain.kept["hypernetwork"]
    assert checkpointed.kept["decoder"] == plain.kept["decoder"]
    assert checkpointed.peak < plain.peak


@pytest.mark.slow
def test_scoring_in_parts_keeps_the_gradient_alone(make_module: Callable[..., NoiseHypernetModule]) -> None:
    whole, parts = (count(make_module(score_batch_size=size), fake=True, copies=2) for size in (None, 1))
    assert parts.kept["decoder and rewards, in parts"] < 0.1 * (whole.kept["decoder"] + whole.kept["rewards"])
    assert parts.peak < 0.8 * whole.peak


@pytest.mark.slow
def test_a_forward_only_update_takes_what_inference_takes(make_module: Callable[..., NoiseHypernetModule]) -> None:
    """Of B * K images at once, or of `score_batch_size`; the real update is the module's own training step."""

    def make(**options: object) -> NoiseHypernetModule:
        return make_module(SubspaceHypernet(frequencies=2, width=16, text_width=12), **options)

    pathwise = count(make(), fake=True, copies=4).peak  # 8 images, as many as below
    peaks = {}
    for size in (None, 3):
        module = make(estimator=ScoreFunction(LowFrequency(2), samples=4), score_batch_size=size)
        fake = count(module, fake=True)
        assert fake.kept.keys() == {"hypernetwork", WITHOUT_GRADIENTS}
        assert fake.peak_stage == WITHOUT_GRADIENTS
        assert fake.peak == pytest.approx(measured(module), rel=0.02)
        without_graph = fake.peak - fake.kept["hypernetwork"]
        assert without_graph == pytest.approx(inference(module, size or 8), rel=0.1)
        peaks[size] = fake.peak
    assert peaks[3] < 0.5 * peaks[None] < 0.25 * pathwise


def measured(module: NoiseHypernetModule) -> int:
    """Most bytes alive in a real training step of a batch of `PROMPTS`."""
    batch = {"prompt": PROMPTS}
    module.training_step(batch, 0).backward()  # what is remembered of prompts and subspaces
    module.zero_grad()
    known = [*module.generator.encode(PROMPTS).values(), *module.estimator.subspace._bases.values()]
    known += module.hypernet.subspace._bases.values()
    with LiveMemory([*module.parameters(), *module.buffers(), *known]) as memory:
        module.training_step(batch, 0).backward()
    module.zero_grad()
    return memory.peak


@torch.no_grad()
def inference(module: NoiseHypernetModule, images: int) -> int:
    """Most bytes alive while so many images are generated and scored."""
    prompts = (PROMPTS * images)[:images]
    conditioning = module.generator.encode(prompts)
    with LiveMemory([*module.parameters(), *module.buffers(), *conditioning.values()]) as memory:
        noise = torch.randn(images, *module.generator.noise_shape)
        module.reward(module.generator.generate(noise, conditioning), prompts)
    return memory.peak


def test_a_fake_copy_shares_what_the_model_shares(make_module: Callable[..., NoiseHypernetModule]) -> None:
    module = make_module()
    copied = fake_copy(module, FakeTensorMode(allow_non_fake_inputs=True))
    assert weight_bytes(copied) == weight_bytes(module)
    assert copied.hypernet.generator is copied.generator
    assert {name: p.requires_grad for name, p in copied.named_parameters()} == {
        name: p.requires_grad for name, p in module.named_parameters()
    }
