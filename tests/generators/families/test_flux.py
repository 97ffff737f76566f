import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file

from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet

TOLERANCE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def published(fixtures: Path) -> dict[str, Any]:
    """Configuration, inputs, LoRA and outputs of the published implementation on tiny FLUX components."""
    folder = fixtures / "flux"
    tensors = {**load_file(folder / "inputs.safetensors"), **load_file(folder / "outputs.safetensors")}
    lora = load_file(folder / "lora.safetensors")
    return {"config": json.loads((folder / "config.json").read_text()), "lora": lora, **tensors}


@pytest.fixture(scope="module")
def flux(fixtures: Path, published: dict[str, Any]) -> DiffusersGenerator:
    folder, config = fixtures / "flux", published["config"]
    transformer, vae = FluxTransformer2DModel(**config["transformer"]), AutoencoderKL(**config["vae"])
    transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
    decoder = load_file(folder / "vae_decoder.safetensors")
    vae.decoder.load_state_dict({name.removeprefix("decoder."): tensor for name, tensor in decoder.items()})
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**config["scheduler"]),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    return DiffusersGenerator.from_pipeline(pipe, height=config["height"], width=config["width"])


@pytest.fixture
def conditioning(published: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: published[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}


@pytest.fixture
def hypernet(flux: DiffusersGenerator, published: dict[str, Any]) -> LoraHypernet:
    settings = published["config"]["lora"]
    hypernet = LoraHypernet(rank=settings["r"], alpha=settings["lora_alpha"]).build(flux)
    lora = {name.replace(".weight", ".default.weight"): tensor for name, tensor in published["lora"].items()}
    hypernet.load_trainable_state_dict({f"backbone.{name}": tensor for name, tensor in lora.items()})
    return hypernet


def test_noise_is_packed(flux, published) -> None:
    assert flux.noise_shape == tuple(published["latents"].shape[1:]) == (16, 16)


def test_the_base_image_is_the_published_one(flux, published, conditioning) -> None:
    image = flux.generate(published["latents"], conditioning)
    torch.testing.assert_close(image, published["image_1step_base"], **TOLERANCE)


def test_f_and_modulated_noise_are_the_published_ones(hypernet, published, conditioning) -> None:
    f = hypernet(published["latents"], conditioning)
    torch.testing.assert_close(f, published["pred_latents"], **TOLERANCE)
    modulated = hypernet.modulate(published["latents"], conditioning)
    torch.testing.assert_close(modulated, published["modulated_latents"], **TOLERANCE)


def test_latents_and_image_of_modulated_noise_are_the_published_ones(flux, hypernet, published, conditioning) -> None:
    latents = flux.denoise(hypernet.modulate(published["latents"], conditioning), conditioning)
    torch.testing.assert_close(latents, published["final_latents_1step"], **TOLERANCE)
    torch.testing.assert_close(flux.decode(latents), published["image_1step"], **TOLERANCE)


def test_the_first_step_is_told_positions_and_time_as_published(flux, published, conditioning) -> None:
    calls = []
    hook = flux.backbone.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    flux.first_step(flux.backbone, published["latents"], conditioning)
    hook.remove()
    assert torch.equal(calls[0]["timestep"], torch.ones(3)) and calls[0]["guidance"] is None
    assert torch.equal(calls[0]["img_ids"], published["img_ids"])
    assert torch.equal(calls[0]["txt_ids"], published["txt_ids"])
