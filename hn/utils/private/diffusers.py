"""Private names of diffusers: how its pipelines turn latents into tokens, and the tokens' positions.

They are called instead of copied, so that hn computes what the stock pipelines do, whatever the version.
"""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline
from torch import Tensor


def unpack_latents(pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
    """Latents of 2 x 2 patches [B, N, 4 C] of a FLUX.1 or Qwen-Image pipeline, as their autoencoder takes them.

    Args:
        pipe: the pipeline.
        latents: as the backbone gives them.
        height: of the image in pixels.
        width: likewise.

    Returns:
        [B, C, H, W] for FLUX.1, [B, C, 1, H, W] for Qwen-Image.
    """
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)


def flux_positions(pipe: DiffusionPipeline, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Positions [rows * columns, 3] of image tokens of a FLUX.1 pipeline, on the CPU."""
    return pipe._prepare_latent_image_ids(1, rows, columns, torch.device("cpu"), dtype)


def flux2_positions(pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
    """Positions [B, H * W, 4] of the image tokens of latents [B, C, H, W] of a FLUX.2 pipeline."""
    return pipe._prepare_latent_ids(latents)


def flux2_text_positions(pipe: DiffusionPipeline, embeds: Tensor) -> Tensor:
    """Positions [B, L, 4] of the text tokens [B, L, D] of a FLUX.2 pipeline."""
    return pipe._prepare_text_ids(embeds)
