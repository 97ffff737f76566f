"""What every family promises, on tiny random components of the real classes."""

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from hn.generators import DiffusersGenerator
from hn.generators.families import DEFAULT_FAMILIES
from hn.hypernets import LoraHypernet
from tests.exactness import stock_images
from tests.tiny_pipelines import CASES, Case

PROMPTS = ["a red cube", "two blue ball left of the green cube"]
FOUR = pytest.param(4, marks=pytest.mark.slow)
STEPS = pytest.mark.parametrize("steps", [1, 2, FOUR, pytest.param(8, marks=pytest.mark.slow)])


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def pipe(case: Case) -> DiffusionPipeline:
    """The tiny pipeline in float32, shared: tests leave it as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pipe = case.build()
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def generator(case: Case, pipe: DiffusionPipeline) -> DiffusersGenerator:
    return wrap(pipe, case)


def wrap(
    pipe: DiffusionPipeline, case: Case, size: tuple[int, int] | None = None, **options: Any
) -> DiffusersGenerator:
    height, width = size or case.size
    return DiffusersGenerator.from_pipeline(pipe, height=height, width=width, family=case.family, **options)


def images_of_stock(pipe: DiffusionPipeline, case: Case, noise: Tensor, steps: int, **options: Any) -> Tensor:
    """What a user of the pipeline gets for PROMPTS, without `hn`."""
    height, width = case.size
    options = {"height": height, "width": width, **case.call, **case.calls_by_steps.get(steps, {}), **options}
    return stock_images(
        pipe, prompt=list(PROMPTS), latents=noise, num_inference_steps=steps, generator=seed(7), **options
    )


def seed(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def reward(images: Tensor, weights: Tensor) -> Tensor:
    """One number of images [B, 3, H, W], smooth in each of them and different for every pixel."""
    return (images * weights + (3 * images).sin() / 3).mean()


def test_every_default_family_is_tested() -> None:
    assert {type(case.build()).__name__ for case in CASES.values()} == set(DEFAULT_FAMILIES)


@STEPS
@pytest.mark.exact
def test_images_equal_the_stock_pipelines_exactly(
    case: Case, pipe: DiffusionPipeline, generator: DiffusersGenerator, steps: int
) -> None:
    noise = generator.sample_noise(2)
    images = generator.generate(noise, generator.encode(PROMPTS), steps, seed(7))
    assert images.shape == (2, 3, *case.size) and case.size[0] != case.size[1]
    assert images.std() > 0.02 and (images[0] - images[1]).abs().max() > 0.01  # not one grey for all
    assert (images - images_of_stock(pipe, case, noise, steps)).abs().max() == 0


@pytest.mark.exact
def test_tall_images_equal_the_stock_pipelines_exactly(case: Case, pipe: DiffusionPipeline) -> None:
    width, height = case.size
    generator = wrap(pipe, case, size=(height, width))
    noise = generator.sample_noise(2)
    images = generator.generate(noise, generator.encode(PROMPTS), 2, seed(7))
    assert images.shape == (2, 3, height, width)
    assert (images - images_of_stock(pipe, case, noise, 2, height=height, width=width)).abs().max() == 0


# SANA-Sprint's default is 1024 x 1024 whatever the transformer: test_sizes.py compares it with a full-size one.
@pytest.mark.parametrize("case", [name for name in CASES if name != "sana"], indirect=True)
def test_the_default_size_is_the_pipelines_own(case: Case, pipe: DiffusionPipeline) -> None:
    """Seen where the pipeline prepares its latents; it goes no further."""
    sizes = []

    class Stop(Exception):
        pass

    def prepare_latents(self, *args: Any, **kwargs: Any) -> None:
        named = inspect.signature(type(pipe).prepare_latents).bind(self, *args, **kwargs).arguments
        sizes.append((named["height"], named["width"]))
        raise Stop

    other = copy.copy(pipe)
    other.__class__ = type(type(pipe).__name__, (type(pipe),), {"prepare_latents": prepare_latents})
    with pytest.raises(Stop):
        other(prompt=PROMPTS[:1], num_inference_steps=2, **case.call)
    generator = DiffusersGenerator.from_pipeline(pipe, family=case.family)
    assert sizes == [(generator.height, generator.width)]


def test_later_steps_draw_from_the_generator_they_are_given(case: Case, generator: DiffusersGenerator) -> None:
    """The same seed gives the same images, whatever else was drawn; another seed others, if noise is drawn at all."""
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    with torch.no_grad():
        images = generator.generate(noise, conditioning, 4, seed(7))
        torch.randn(3)
        assert torch.equal(generator.generate(noise, conditioning, 4, seed(7)), images)
        other = generator.generate(noise, conditioning, 4, seed(8))
    assert (images - other).abs().max() > 0 if case.draws else torch.equal(images, other)


def test_a_batch_with_a_generator_for_each_sample_equals_single_runs(generator: DiffusersGenerator) -> None:
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    with torch.no_grad():
        images = generator.generate(noise, conditioning, 4, [seed(1), seed(2)])
        for i, rng in enumerate((seed(1), seed(2))):
            alone = {name: tensor[i : i + 1] for name, tensor in conditioning.items()}
            torch.testing.assert_close(generator.generate(noise[i : i + 1], alone, 4, rng)[0], images[i])


def test_the_first_step_is_what_the_pipeline_computes_first(generator: DiffusersGenerator) -> None:
    """`first_step` gives what the backbone returns in the pipeline's own first step."""
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    calls: list[tuple[Tensor, Tensor]] = []

    def record(module, args, kwargs, output) -> None:
        first = args[0] if args else kwargs["hidden_states"]
        calls.append(tuple(torch.stack(x) if isinstance(x, list) else x for x in (first, output[0])))

    hook = generator.backbone.register_forward_hook(record, with_kwargs=True)
    try:
        generator.denoise(noise, conditioning, steps=1, rng=seed(0))
        f = generator.first_step(generator.backbone, noise, conditioning)
    finally:
        hook.remove()
    (pipeline_input, pipeline_output), (own_input, own_output) = calls
    assert f.shape == noise.shape
    torch.testing.assert_close(own_input, pipeline_input, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own_output, pipeline_output, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, FOUR])
def test_an_untrained_hypernetwork_changes_nothing(case: Case, generator: DiffusersGenerator, steps: int) -> None:
    hypernet = LoraHypernet(rank=2).build(generator)
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    assert (hypernet(noise, conditioning) == 0).all()
    images = generator.generate(noise, conditioning, steps, seed(7))
    modulated = generator.generate(hypernet.modulate(noise, conditioning), conditioning, steps, seed(7))
    assert (images - modulated).abs().max() == 0


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.slow), FOUR])
def test_reward_gradient_equals_finite_differences(case: Case, pipe: DiffusionPipeline, steps: int) -> None:
    """In float64, gradients along a segment integrate (Gauss-Legendre) to the difference of the reward at its ends.

    The segment follows the gradient at its middle. It has to have some length, for flow-matching and SANA's pipelines
    keep latents, or what the scheduler makes of them, in float32 all the same; the integral allows for that length.
    """
    generator = wrap(in_double(pipe), case)
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    weights = torch.randn(2, 3, *case.size, dtype=torch.float64)

    def total(x: Tensor) -> Tensor:
        return (generator.generate(x, conditioning, steps, seed(7)) * weights).mean()

    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(total(x), x)[0]

    middle = gradient(noise)
    direction = case.difference * middle / middle.norm()
    places, shares = np.polynomial.legendre.leggauss(case.places)
    analytic = sum(
        share * (gradient(noise + place * direction) * direction).sum()
        for place, share in zip(places, shares, strict=True)
    )
    with torch.no_grad():
        difference = total(noise + direction) - total(noise - direction)
    assert noise.dtype == torch.float64 and middle.norm() > 1e-5
    assert (analytic - difference).abs() / analytic.abs() < 1e-4


def test_gradient_checkpointing_gives_the_same_gradients(case: Case, pipe: DiffusionPipeline) -> None:
    """Of generator and hypernetwork, with respect to the noise and to the LoRA weights."""
    gradients = []
    for gradient_checkpointing in (False, True):
        generator = wrap(copied(pipe), case, gradient_checkpointing=gradient_checkpointing)
        torch.manual_seed(2)  # the LoRA's A is random
        hypernet = LoraHypernet(rank=2, gradient_checkpointing=gradient_checkpointing).build(generator)
        perturb(hypernet)
        noise = generator.sample_noise(2, seed(3)).requires_grad_(True)
        conditioning = generator.encode(PROMPTS)
        images = generator.generate(hypernet.modulate(noise, conditioning), conditioning, 2, seed(7))
        reward(images, torch.ones(())).backward()
        # The last block of some transformers computes text tokens that nobody reads: no gradient there.
        trained = [p.grad for p in hypernet.parameters() if p.grad is not None]
        gradients.append(torch.cat([noise.grad.flatten(), *(g.flatten() for g in trained)]))
        assert generator.backbone.is_gradient_checkpointing == gradient_checkpointing
    assert gradients[0].norm() > 0
    assert (gradients[1] - gradients[0]).norm() <= 1e-6 * gradients[0].norm()


def test_frozen_weights_get_no_gradients_and_stay(case: Case, pipe: DiffusionPipeline) -> None:
    generator = wrap(copied(pipe), case)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    hypernet = LoraHypernet(rank=2).build(generator)
    perturb(hypernet)
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    optimizer = torch.optim.SGD([p for p in hypernet.parameters() if p.requires_grad], lr=0.1)
    images = generator.generate(hypernet.modulate(noise, conditioning), conditioning, 1, seed(7))
    reward(images, torch.ones(())).backward()
    optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in generator.parameters())
    after = generator.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@STEPS
def test_the_stock_pipeline_takes_modulated_noise(
    case: Case, pipe: DiffusionPipeline, generator: DiffusersGenerator, steps: int
) -> None:
    hypernet = LoraHypernet(rank=2).build(generator)
    perturb(hypernet)
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)
    with torch.no_grad():
        latents = hypernet.modulate(noise, conditioning)
        images = generator.generate(latents, conditioning, steps, seed(7))
        base = generator.generate(noise, conditioning, steps, seed(7))
    assert (images - images_of_stock(pipe, case, latents, steps)).abs().max() == 0
    assert (images - base).abs().max() > 0


def test_half_precision_runs_in_half_precision(case: Case, pipe: DiffusionPipeline) -> None:
    generator = wrap(copied(pipe).to(torch.bfloat16), case)
    noise = generator.sample_noise(1)
    images = generator.generate(noise, generator.encode(PROMPTS[:1]), 2, seed(7))
    assert noise.dtype == torch.float32
    assert images.dtype == torch.bfloat16 and images.isfinite().all()


def test_prompts_encoded_together_and_alone_are_the_same(generator: DiffusersGenerator) -> None:
    """Conditioning has one shape, whatever the prompts, so that it can be cached by prompt and concatenated."""
    alone = [generator.family.encode(generator.pipe, [prompt], generator.device) for prompt in PROMPTS]
    together = generator.family.encode(generator.pipe, list(PROMPTS), generator.device)
    assert set(together) == set(alone[0])
    for name, tensor in together.items():
        torch.testing.assert_close(torch.cat([sample[name] for sample in alone]), tensor)


def test_impossible_sizes_are_refused(case: Case, pipe: DiffusionPipeline) -> None:
    for height, width in ((33, 32), (32, 0), (-32, 32)):
        with pytest.raises(ValueError, match="Height and width must be positive multiples of"):
            DiffusersGenerator.from_pipeline(pipe, height=height, width=width, family=case.family)


def copied(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline with networks of its own."""
    other = copy.copy(pipe)
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module):
            setattr(other, name, copy.deepcopy(component))
    return other


def in_double(pipe: DiffusionPipeline) -> DiffusionPipeline:
    return copied(pipe).to(torch.float64)


def perturb(hypernet: LoraHypernet) -> None:
    """Give every LoRA's B, zero so far, some value."""
    with torch.no_grad():
        for name, tensor in hypernet.named_parameters():
            if "lora_B" in name:
                tensor.copy_(0.02 * torch.randn(tensor.shape, generator=seed(5)))
