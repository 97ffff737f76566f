from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from hn.generators import DiffusersGenerator
from hn.generators.families.stable_diffusion import StableDiffusion
from hn.rewards import ClipReward
from tests.exactness import stock_images

PROMPTS = ["a red cube", "two blue ball left of the green cube"]
STEPS = pytest.mark.parametrize("steps", [1, 2, 4])


@STEPS
@pytest.mark.exact
def test_images_equal_the_stock_pipelines_exactly(
    generator: DiffusersGenerator, stock_pipeline: StableDiffusionPipeline, steps: int
) -> None:
    noise = generator.sample_noise(2)
    images = generator.generate(noise, generator.encode(PROMPTS), steps)
    stock = stock_images(stock_pipeline, PROMPTS, latents=noise, num_inference_steps=steps, guidance_scale=0.0)
    assert images.shape == (2, 3, 32, 32)
    assert images.std() > 0.05  # not a uniform grey, on which everything would agree
    assert (images - stock).abs().max() == 0


@pytest.mark.exact
def test_schedulers_that_draw_noise_equal_the_stock_pipeline_with_the_same_seed(tiny_pipeline_folder: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    generator = DiffusersGenerator.from_pipeline(pipe, steps=3)
    noise, conditioning = generator.sample_noise(2), generator.encode(PROMPTS)

    def seed(value: int) -> torch.Generator:
        return torch.Generator().manual_seed(value)

    images = generator.generate(noise, conditioning, rng=seed(1))
    stock = stock_images(pipe, PROMPTS, latents=noise, num_inference_steps=3, guidance_scale=0, generator=seed(1))
    assert (images - stock).abs().max() == 0
    assert (images - generator.generate(noise, conditioning, rng=seed(2))).abs().max() > 0


@STEPS
def test_reward_gradient_equals_finite_differences(
    make_generator: Callable[..., DiffusersGenerator], tiny_clip_folder: Path, steps: int
) -> None:
    generator = make_generator(dtype="float64", steps=steps)
    reward = ClipReward(str(tiny_clip_folder), dtype="float64")
    conditioning = generator.encode(PROMPTS)
    noise = generator.sample_noise(2)
    direction = torch.randn_like(noise)

    def total(x: torch.Tensor) -> torch.Tensor:
        return reward(generator.generate(x, conditioning), PROMPTS).sum()

    (gradient,) = torch.autograd.grad(total(noise.requires_grad_(True)), noise)
    h = 1e-6
    with torch.no_grad():
        difference = (total(noise + h * direction) - total(noise - h * direction)) / (2 * h)
    analytic = (gradient * direction).sum()
    assert noise.dtype == torch.float64 and analytic.abs() > 1e-3
    assert (analytic - difference).abs() / analytic.abs() < 1e-4


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(
    make_generator: Callable[..., DiffusersGenerator],
) -> None:
    noise = make_generator().sample_noise(2)
    gradients, calls = [], []
    for gradient_checkpointing in (False, True):
        generator = make_generator(gradient_checkpointing=gradient_checkpointing, steps=2)
        count = [0, 0]
        for i, block in enumerate((generator.backbone.down_blocks[0].resnets[0], generator.pipe.vae.decoder.mid_block)):
            block.register_forward_pre_hook(lambda *_, i=i, count=count: count.__setitem__(i, count[i] + 1))
        x = noise.clone().requires_grad_(True)
        images = generator.generate(x, generator.encode(PROMPTS))
        images.square().mean().backward()
        gradients.append(x.grad)
        calls.append(count)
        assert not any(module.training for module in generator.modules())
    assert calls == [[2, 1], [4, 2]]
    assert (gradients[1] - gradients[0]).norm() <= 1e-6 * gradients[0].norm()


def test_parameters_are_frozen_and_get_no_gradients(generator: DiffusersGenerator) -> None:
    noise = generator.sample_noise(1).requires_grad_(True)
    generator.generate(noise, generator.encode(["a cube"])).sum().backward()
    parameters = list(generator.parameters())
    assert len(parameters) > 100  # of all three networks
    assert noise.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in parameters)


def test_stays_in_eval_mode_inside_a_training_module(generator: DiffusersGenerator) -> None:
    nn.ModuleList([generator]).train()
    assert not any(module.training for module in generator.modules())


def test_noise_is_reproducible_and_in_shape(generator: DiffusersGenerator) -> None:
    first, again = (generator.sample_noise(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == (5, 8, 8, 8) and first.dtype == torch.float32
    assert torch.equal(first, again)


def test_half_precision_draws_full_precision_noise(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator(dtype="bfloat16")
    noise = generator.sample_noise(1)
    assert noise.dtype == torch.float32
    images = generator.generate(noise, generator.encode(["a cube"]))
    assert images.dtype == torch.bfloat16 and images.isfinite().all()


def test_sizes_other_than_the_default(make_generator: Callable[..., DiffusersGenerator]) -> None:
    generator = make_generator(height=16, width=40)
    assert generator.noise_shape == (8, 4, 10)
    assert generator.generate(generator.sample_noise(1), generator.encode(["a cube"])).shape == (1, 3, 16, 40)


def test_another_backbone_changes_the_images_and_leaves_the_first_generator_alone(
    make_generator: Callable[..., DiffusersGenerator],
) -> None:
    generator = make_generator(steps=2)
    other = generator.with_backbone(make_generator().backbone)
    noise, conditioning = generator.sample_noise(1), generator.encode(["a cube"])
    before = generator.generate(noise, conditioning)
    assert torch.equal(other.generate(noise, conditioning), before)
    other.backbone.conv_out.weight.data.mul_(2)
    assert not torch.equal(other.generate(noise, conditioning), before)
    assert torch.equal(generator.generate(noise, conditioning), before)
    assert other.pipe.vae is generator.pipe.vae
    assert other.steps == 2 and type(other) is type(generator)
    assert other.encode(["a cube"])["prompt_embeds"].equal(conditioning["prompt_embeds"])
    other.register_forward_pre_hook(lambda *_: None)
    assert not generator._forward_pre_hooks


def test_a_backbone_keeps_its_own_gradients_and_checkpointing(
    make_generator: Callable[..., DiffusersGenerator],
) -> None:
    generator = make_generator(gradient_checkpointing=True)
    backbone = make_generator().backbone.requires_grad_(True).train()
    other = generator.with_backbone(backbone)
    assert all(p.requires_grad for p in backbone.parameters()) and not backbone.training
    assert generator.backbone.is_gradient_checkpointing and not backbone.is_gradient_checkpointing
    assert other.backbone is backbone is other.pipe.unet


def test_a_pipeline_in_memory_keeps_its_scheduler(stock_pipeline: StableDiffusionPipeline) -> None:
    scheduler = stock_pipeline.scheduler
    generator = DiffusersGenerator.from_pipeline(stock_pipeline, scheduler_options={"timestep_spacing": "leading"})
    assert generator.pipe.scheduler.config.timestep_spacing == "leading"
    assert stock_pipeline.scheduler is scheduler and scheduler.config.timestep_spacing == "trailing"


def test_an_offloaded_pipeline_is_refused(tiny_pipeline_folder: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    add_hook_to_module(pipe.unet.mid_block, ModelHook())
    with pytest.raises(ValueError, match="The pipeline is offloaded .* call pipe.remove_all_hooks"):
        DiffusersGenerator.from_pipeline(pipe)
    remove_hook_from_module(pipe.unet.mid_block)
    assert DiffusersGenerator.from_pipeline(pipe).noise_shape == (8, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "half"}, "Unknown dtype 'half'"),
        ({"steps": 0}, r"steps \(0\)"),
        ({"encode_batch_size": 0}, r"encode_batch_size \(0\)"),
        ({"prompt_cache_size": -1}, "capacity"),
        ({"family": "hn.rewards.redness.RednessReward"}, "not a subclass of hn.generators.families.base.Family"),
    ],
)
def test_bad_options_are_refused(
    make_generator: Callable[..., DiffusersGenerator], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_generator(**options)


def test_a_family_refuses_another_pipeline(stock_pipeline: StableDiffusionPipeline) -> None:
    class Xl(StableDiffusion):
        pipeline_class = StableDiffusionXLPipeline

    with pytest.raises(ValueError, match="runs a StableDiffusionXLPipeline, not a StableDiffusionPipeline"):
        DiffusersGenerator.from_pipeline(stock_pipeline, family=Xl())


def test_shapes_that_do_not_fit_are_refused(generator: DiffusersGenerator) -> None:
    conditioning = generator.encode(["a cube"])
    with pytest.raises(ValueError, match=r"noise must have shape \[B, 8, 8, 8\], not \[1, 4, 8, 8\]"):
        generator.generate(torch.zeros(1, 4, 8, 8), conditioning)
    with pytest.raises(ValueError, match="prompt_embeds is for 1 prompts, but there are 2 noise samples"):
        generator.first_step(generator.backbone, generator.sample_noise(2), conditioning)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        generator.generate(generator.sample_noise(1), conditioning, steps=0)
    for prompts in ([], "a cube"):
        with pytest.raises(ValueError, match="a list of one or more prompts"):
            generator.encode(prompts)


def test_more_steps_than_the_scheduler_has_are_refused(generator):
    noise, conditioning = generator.sample_noise(1), generator.encode(["a red ball"])
    with pytest.raises(ValueError, match="steps must be at most 1000, the timesteps of DDIMScheduler, not 1001"):
        generator.generate(noise, conditioning, 1001)
