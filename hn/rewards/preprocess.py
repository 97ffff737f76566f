"""Preprocessing of CLIP-like image towers on tensors, differentiable."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ClipPreprocess(nn.Module):
    """Antialiased bicubic resize of the shorter side to `size`, centre crop to `size` x `size`, normalisation.

    Images of that size already are only normalised. The resize overshoots a little at edges, as bicubic does; values
    are not clamped, as in the published code.

    Args:
        size: side of the output in pixels.
        mean: of the three channels.
        std: of the three channels.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.size = size
        # Kept in float64, so that a float64 reward is exact; cast to the images' type on use.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, 3, size, size], in the images' data type."""
        cropped = centre_crop(resize_shorter_side(images, self.size), self.size)
        return (cropped - self.mean.to(images.dtype)) / self.std.to(images.dtype)


def resize_shorter_side(images: Tensor, size: int) -> Tensor:
    """[B, C, H, W] with the shorter side made `size` long, the longer one in proportion (rounded down)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    if short == size:
        return images
    new_size = (size * height // short, size * width // short)
    return functional.interpolate(images, new_size, mode="bicubic", antialias=True, align_corners=False)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` of [B, C, H, W] with H, W >= size; half a pixel is rounded to even."""
    height, width = images.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return images[..., top : top + size, left : left + size]
