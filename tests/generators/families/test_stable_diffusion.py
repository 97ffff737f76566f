import copy
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from safetensors.torch import load_file
from torch import Tensor

from hn.generators import PipelineGenerator
from hn.generators.families.stable_diffusion import StableDiffusion
from hn.rewards import RednessReward
from tests import published as tiny
from tests.exactness import stock_images


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """Configuration, inputs and outputs of the published implementation on tiny SD-Turbo components."""
    folder = tiny.FIXTURES / "sd_turbo"
    tensors = {**load_file(folder / "inputs.safetensors"), **load_file(folder / "outputs.safetensors")}
    return {"config": tiny.config_of("sd_turbo"), **tensors}


@pytest.fixture(scope="module")
def sd_turbo() -> PipelineGenerator:
    return tiny.sd_turbo()


@pytest.fixture
def noise(published: dict[str, Any]) -> Tensor:
    return published["latents"].clone().requires_grad_(True)


def test_latents_and_image_are_the_published_ones(sd_turbo, published, noise) -> None:
    latents = sd_turbo.denoise(noise, {"prompt_embeds": published["prompt_embeds"]})
    torch.testing.assert_close(latents, published["latents_out_1step"], atol=5e-4, rtol=0)
    torch.testing.assert_close(sd_turbo.decode(latents), published["image_1step"], atol=2e-5, rtol=0)


def test_first_step_is_the_published_epsilon(sd_turbo, published, noise) -> None:
    epsilon = sd_turbo.first_step(sd_turbo.backbone, noise, {"prompt_embeds": published["prompt_embeds"]})
    torch.testing.assert_close(epsilon, published["unet_eps_1step"], atol=2e-5, rtol=0)


def test_gradient_of_redness_is_the_published_one(sd_turbo, published, noise) -> None:
    images = sd_turbo.generate(noise, {"prompt_embeds": published["prompt_embeds"]})
    loss = -RednessReward()(images, [""] * 3).mean()
    assert loss.item() == pytest.approx(published["config"]["redness"], abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, noise)
    torch.testing.assert_close(gradient, published["grad_redness_wrt_latents"], atol=1e-7, rtol=1e-4)


def test_first_step_of_euler_undoes_its_initial_scale(sd_turbo, published) -> None:
    sigma = published["config"]["one_step_schedule"]["init_noise_sigma"]
    start = sd_turbo.family.first_step(sd_turbo.pipe)
    assert start.timestep == 999
    assert start.input_scale == pytest.approx(sigma / (sigma**2 + 1) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("name", ["sd_turbo", "generator"])
def test_first_step_calls_the_backbone_as_the_pipeline_does(name: str, request: pytest.FixtureRequest) -> None:
    generator = request.getfixturevalue(name)
    x = generator.sample_noise(2)
    conditioning = {"prompt_embeds": torch.randn(2, 5, generator.backbone.config.cross_attention_dim)}
    calls = []
    hook = generator.backbone.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((args, kwargs, output[0])), with_kwargs=True
    )
    try:
        generator.denoise(x, conditioning, steps=2)
        raw = generator.first_step(generator.backbone, x, conditioning)
    finally:
        hook.remove()
    assert len(calls) == 3
    ((pipeline_input, pipeline_timestep), pipeline_kwargs, pipeline_output), (args, kwargs, _) = calls[0], calls[2]
    torch.testing.assert_close(args[0], pipeline_input, atol=1e-6, rtol=1e-6)
    assert torch.equal(args[1], pipeline_timestep.float().expand(2))
    torch.testing.assert_close(kwargs["encoder_hidden_states"], pipeline_kwargs["encoder_hidden_states"])
    torch.testing.assert_close(raw, pipeline_output, atol=1e-5, rtol=1e-5)


def test_a_schedule_that_does_not_start_at_pure_noise_is_refused(make_generator) -> None:
    generator = make_generator(scheduler_options={"timestep_spacing": "leading"})
    with pytest.raises(ValueError, match="starts at timestep 1, not at the last training timestep 999; set scheduler"):
        generator.first_step(generator.backbone, generator.sample_noise(1), generator.encode(["a cube"]))


def test_classifier_free_guidance_is_refused(make_generator) -> None:
    with pytest.raises(ValueError, match="7.5 asks for classifier-free guidance"):
        make_generator(family=StableDiffusion(guidance_scale=7.5))


@pytest.mark.exact
def test_one_step_generation_can_start_at_another_timestep(make_generator, stock_pipeline) -> None:
    generator = make_generator(family=StableDiffusion(one_step_timestep=800), scheduler="diffusers.LCMScheduler")
    assert generator.family.first_step(generator.pipe).timestep == 800
    pipe = copy.copy(stock_pipeline)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    noise, prompts = generator.sample_noise(2), ["a cube", "a ball"]
    for steps, schedule in ((1, {"timesteps": [800]}), (2, {})):
        stock = stock_images(
            pipe, prompts, latents=noise, num_inference_steps=steps, guidance_scale=0.0,
            generator=torch.Generator().manual_seed(0), **schedule,
        )  # fmt: skip
        images = generator.generate(noise, generator.encode(prompts), steps, torch.Generator().manual_seed(0))
        assert torch.equal(images, stock)


@pytest.mark.parametrize("size", [{"height": 36}, {"width": 0}, {"height": -32}])
def test_impossible_sizes_are_refused(make_generator, size: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Height and width must be positive multiples of 8"):
        make_generator(**size)
