"""Generators and rewards of the published sizes with random weights: speed and memory do not depend on their values.

Sizes are those of the published configurations; there are no text encoders, for conditioning is drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from torch import nn
from transformers import CLIPConfig, CLIPModel

from benchmarks.miniature import CHECKPOINTS
from hn.generators.base import Conditioning


@dataclass(frozen=True)
class Shape:
    """A generator of a published size.

    Attributes:
        pipeline: makes the pipeline, on the default device and in the default data type.
        conditioning: makes random conditioning of a number of prompts, on the default device.
        side: of the images in pixels.
    """

    pipeline: Callable[[], DiffusionPipeline]
    conditioning: Callable[[int], Conditioning]
    side: int


def autoencoder(**options: Any) -> diffusers.AutoencoderKL:
    """Stable Diffusion's autoencoder, with other options than its own."""
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        **options,
    )


def sixteen_channel_autoencoder() -> diffusers.AutoencoderKL:
    """FLUX.1's autoencoder, which Z-Image has too."""
    scale = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    return autoencoder(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, **scale)


def sd_turbo() -> DiffusionPipeline:
    """Stable Diffusion 2.1's UNet and autoencoder."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        block_out_channels=(320, 640, 1280, 1280),
        use_linear_projection=True,
    )
    vae = autoencoder()
    with torch.device("cpu"):
        scheduler = diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="trailing",
            steps_offset=1,
        )
    return diffusers.StableDiffusionPipeline(
        vae, None, None, unet, scheduler, None, None, requires_safety_checker=False
    )


def sana_sprint() -> DiffusionPipeline:
    """SANA-Sprint 0.6B with DC-AE f32c32."""
    transformer = diffusers.SanaTransformer2DModel(
        num_attention_heads=36,
        num_layers=28,
        num_cross_attention_heads=16,
        cross_attention_head_dim=72,
        cross_attention_dim=1152,
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
        timestep_scale=1000.0,
    )
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    vae = diffusers.AutoencoderDC(
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINTS / "pipeline" / "tokenizer")
    return diffusers.SanaSprintPipeline(tokenizer, None, vae, transformer, diffusers.SCMScheduler())


def flux_schnell() -> DiffusionPipeline:
    """FLUX.1-schnell."""
    vae = sixteen_channel_autoencoder()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    return diffusers.FluxPipeline(scheduler, vae, None, None, None, None, diffusers.FluxTransformer2DModel())


def sdxl() -> DiffusionPipeline:
    """SDXL's UNet and autoencoder."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    vae = autoencoder(scaling_factor=0.13025)
    with torch.device("cpu"):
        scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", steps_offset=1)
    return diffusers.StableDiffusionXLPipeline(vae, None, None, None, None, unet, scheduler)


def z_image() -> DiffusionPipeline:
    """Z-Image-Turbo."""
    vae = sixteen_channel_autoencoder()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.ZImagePipeline(scheduler, vae, None, None, diffusers.ZImageTransformer2DModel())


def _sd_turbo_conditioning(n: int) -> Conditioning:
    return {"prompt_embeds": torch.randn(n, 77, 1024)}


def _sana_conditioning(n: int) -> Conditioning:
    return {"prompt_embeds": torch.randn(n, 300, 2304), "prompt_attention_mask": torch.ones(n, 300)}


def _flux_conditioning(n: int) -> Conditioning:
    return {"prompt_embeds": torch.randn(n, 256, 4096), "pooled_prompt_embeds": torch.randn(n, 768)}


def _sdxl_conditioning(n: int) -> Conditioning:
    return {"prompt_embeds": torch.randn(n, 77, 2048), "pooled_prompt_embeds": torch.randn(n, 1280)}


def _z_image_conditioning(n: int) -> Conditioning:
    lengths = torch.full((n,), 512, device="cpu")  # which are read
    return {"prompt_embeds": torch.randn(n, 512, 2560), "prompt_lengths": lengths}


SHAPES = {
    "sd_turbo": Shape(sd_turbo, _sd_turbo_conditioning, 512),
    "sana_sprint": Shape(sana_sprint, _sana_conditioning, 1024),
    "flux_schnell": Shape(flux_schnell, _flux_conditioning, 512),
    "sdxl": Shape(sdxl, _sdxl_conditioning, 1024),
    "z_image": Shape(z_image, _z_image_conditioning, 1024),
}


def write_vit_h(folder: Path) -> Path:
    """A random CLIPModel of ViT-H-14's size in bfloat16 (2 GB), as `ClipReward` loads it."""
    config = CLIPConfig(
        projection_dim=1024,
        text_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "vocab_size": 49408,
            "hidden_act": "gelu",
        },
        vision_config={
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
            "hidden_act": "gelu",
        },
    )
    CLIPModel(config).to(torch.bfloat16).save_pretrained(folder)
    transformers.CLIPTokenizer.from_pretrained(CHECKPOINTS / "clip").save_pretrained(folder)
    return folder


def randomise(network: nn.Module) -> None:
    """Small random numbers in all weights, so that nothing overflows."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02)
