"""Blur, noise and contrast changes, so that networks trained on renders judge generated images fairly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def degrade(images: Tensor, rng: torch.Generator, blur: float = 0.5, noise: float = 0.06) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] with some blur, contrast jitter and noise.

    Args:
        images: clean renders.
        rng: decides how much of each an image gets; blur and noise spare two images of five.
        blur: largest share of the 3 x 3 box blur mixed in.
        noise: largest standard deviation of the noise.
    """
    batch = len(images)

    def amount(high: float) -> Tensor:
        return high * torch.rand(batch, 1, 1, 1, generator=rng) * (torch.rand(batch, 1, 1, 1, generator=rng) < 0.6)

    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.lerp(images, smooth, amount(blur))
    contrast = 1 + 0.3 * (torch.rand(batch, 1, 1, 1, generator=rng) - 0.5)
    images = (images - 0.5) * contrast + 0.5
    return (images + amount(noise) * torch.randn(images.shape, generator=rng)).clamp(0, 1)
