"""The size of an image as a JPEG file: the compressibility task of DDPO (arXiv 2305.13301)."""

from collections.abc import Sequence
from io import BytesIO
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from hn.rewards.base import Reward
from hn.utils.dtype import full_precision


class JpegSizeReward(Reward):
    """Size of the image as a JPEG file. It ignores the prompt and is not differentiable.

    A positive weight rewards detail (incompressibility), a negative one smooth images (compressibility). In an ensemble
    it can be reported, or have a weight with `gradient_free: true`.

    Args:
        unit: "kilobytes" (1000 bytes), as published, or "bits_per_pixel", which does not depend on the image size.
        quality: JPEG quality, 1 to 95; published is 95.

    Raises:
        ValueError: if an argument is unknown or out of range.
    """

    differentiable = False
    reads_prompts = False

    def __init__(self, unit: Literal["kilobytes", "bits_per_pixel"] = "kilobytes", quality: int = 95):
        super().__init__()
        if unit not in ("kilobytes", "bits_per_pixel"):
            raise ValueError(f"Unknown unit {unit!r}; choose 'kilobytes' or 'bits_per_pixel'.")
        if not 1 <= quality <= 95:
            raise ValueError(f"The JPEG quality must be 1 to 95, not {quality}.")
        self.unit = unit
        self.quality = quality

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        eight_bit = full_precision(images.detach()).mul(255).round().clamp(0, 255).to(torch.uint8)
        sizes = [self._bytes(image) for image in eight_bit.permute(0, 2, 3, 1).cpu().numpy()]
        pixels = images.shape[-2] * images.shape[-1]
        factor = 1 / 1000 if self.unit == "kilobytes" else 8 / pixels
        return torch.tensor(sizes, dtype=full_precision(images).dtype, device=images.device) * factor

    def _bytes(self, image) -> int:  # numpy [H, W, 3] uint8
        file = BytesIO()
        Image.fromarray(image).save(file, format="JPEG", quality=self.quality)
        return file.tell()
