"""Options that change how fast and in how much memory a generator runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet
from tests.counting_backend import CountingBackend
from tests.exactness import stock_images

PROMPTS = ["a red cube", "two blue ball"]


@pytest.fixture
def run(make_generator: Callable[..., DiffusersGenerator]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Images of a generator with the options given, and the gradient of their mean with respect to the noise."""

    def images_and_gradient(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        generator = make_generator(**options)
        noise = torch.randn(2, *generator.noise_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        images = generator.generate(noise, generator.encode(PROMPTS))
        return images.detach(), torch.autograd.grad(images.square().sum(), noise)[0]

    return images_and_gradient


def test_channels_last_changes_the_layout_alone(
    make_generator: Callable[..., DiffusersGenerator], run: Callable[..., tuple[torch.Tensor, torch.Tensor]]
) -> None:
    convolutions = [m for m in make_generator(channels_last=True).backbone.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    for changed, plain in zip(run(channels_last=True), run(), strict=True):
        torch.testing.assert_close(changed, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


@pytest.mark.exact
def test_tiles_are_decoded_as_the_stock_pipeline_does(
    make_generator: Callable[..., DiffusersGenerator], tiny_pipeline_folder: Path
) -> None:
    generator = make_generator(decoder_tiling=True, height=64, width=64, dtype="float64")
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder, dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.enable_tiling()
    noise = generator.sample_noise(2, torch.Generator().manual_seed(0))
    call = {"latents": noise, "num_inference_steps": 1, "guidance_scale": 0.0}
    conditioning = generator.encode(PROMPTS)
    images = stock_images(pipe, prompt_embeds=conditioning["prompt_embeds"], height=64, width=64, **call)
    assert torch.equal(generator.generate(noise, conditioning), images)
    assert not torch.equal(make_generator(height=64, width=64, dtype="float64").generate(noise, conditioning), images)

    direction = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(generator.generate(leaf, conditioning).square().sum(), leaf)
    ahead, behind = (generator.generate(noise + h * direction, conditioning).square().sum() for h in (1e-6, -1e-6))
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / 2e-6, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_compiled_networks_are_the_same_functions(
    run: Callable[..., tuple[torch.Tensor, torch.Tensor]], backend: CountingBackend
) -> None:
    for compiled, plain in zip(run(compile=True), run(), strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
    assert backend.runs >= 2  # backbone and decoder


@pytest.mark.slow
def test_a_compiled_hypernetwork_is_the_same_function(generator: DiffusersGenerator, backend: CountingBackend) -> None:
    def f_and_gradient(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        hypernet = LoraHypernet(rank=2, **options).build(generator)
        weights = [p for p in hypernet.parameters() if p.requires_grad]
        with torch.no_grad():
            for weight in weights:
                weight.add_(0.05 * torch.randn_like(weight))
        noise = torch.randn(2, *generator.noise_shape, generator=torch.Generator().manual_seed(1))
        f = hypernet(noise, generator.encode(PROMPTS))
        return f.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(f.square().mean(), weights)])

    plain = f_and_gradient()
    assert backend.runs == 0
    compiled = f_and_gradient(compile=True)
    assert backend.runs >= 1
    for a, b in zip(compiled, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())
