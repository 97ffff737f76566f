"""Generators on the tiny random components whose numbers the parity fixtures hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from torch import Tensor

from hn.generators import DiffusersGenerator, PipelineGenerator

FIXTURES = Path(__file__).parent / "fixtures"


def config_of(name: str) -> dict[str, Any]:
    """Configuration of the components of `tests/fixtures/<name>`."""
    return json.loads((FIXTURES / name / "config.json").read_text())


def inputs_of(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise, and the conditioning of as many prompts."""
    tensors = load_file(FIXTURES / name / "inputs.safetensors")
    return tensors.pop("x0" if "x0" in tensors else "latents"), tensors


def trainable(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published LoRA by the names of our parameters."""
    return {f"backbone.{name.removesuffix('weight')}default.weight": tensor for name, tensor in lora.items()}


def sana(dtype: torch.dtype = torch.float32) -> PipelineGenerator:
    """SANA-Sprint, images of 32 x 32; `dtype` is the transformer's."""
    folder, config = FIXTURES / "sana", config_of("sana")
    transformer, vae = SanaTransformer2DModel(**config["transformer"]), AutoencoderDC(**config["vae"])
    transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
    vae.load_state_dict(load_file(folder / "vae.safetensors"))
    pipe = SanaSprintPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer.to(dtype),
        scheduler=SCMScheduler(**config["scheduler"]),
    )
    return DiffusersGenerator.from_pipeline(pipe, height=32, width=32)


def flux(height: int = 32, width: int = 32) -> PipelineGenerator:
    """FLUX.1, of whose autoencoder only the decoder has the fixtures' weights."""
    folder, config = FIXTURES / "flux", config_of("flux")
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
    return DiffusersGenerator.from_pipeline(pipe, height=height, width=width)


def sd_turbo() -> PipelineGenerator:
    """SD-Turbo, images of 16 x 16."""
    folder, config = FIXTURES / "sd_turbo", config_of("sd_turbo")
    unet, vae = UNet2DConditionModel(**config["unet"]), AutoencoderKL(**config["vae"])
    unet.load_state_dict(load_file(folder / "unet.safetensors"))
    vae.load_state_dict(load_file(folder / "vae.safetensors"))
    pipe = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**config["scheduler"]),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return DiffusersGenerator.from_pipeline(pipe)
