"""Preprocessing of CLIP-like image towers on tensors, differentiable."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms


class ClipPreprocess(nn.Module):
    """Antialiased bicubic resize of the shorter side to `size`, centre crop to `size` x `size`, normalisation.

    Images of that size are only normalised. Bicubic interpolation overshoots a little at edges; values are not clamped,
    as in the published code.

    Args:
        size: side of the output in pixels.
        mean: of the three channels.
        std: of the three channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.size = size
        self.key: Hashable = (size, tuple(map(float, mean)), tuple(map(float, std)))
        # In float64, so that a float64 reward is exact; cast to the data type of the images on use.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, 3, size, size], in the images' data type."""
        return self.normalise(resize_and_crop(images, self.size))

    def normalise(self, cropped: Tensor) -> Tensor:
        """Normalise images [B, 3, size, size] in [0, 1] by `mean` and `std`."""
        return (cropped - self.mean.to(cropped.dtype)) / self.std.to(cropped.dtype)


class SharedPixels:
    """Preprocessed pixels of a batch for several models, each resize and each normalisation computed once.

    The first request decides whether pixels have gradients, so request those that need gradients first.

    Args:
        images: [B, 3, H, W] in [0, 1].
    """

    def __init__(self, images: Tensor):
        self.images = images
        self._cropped: dict[int, Tensor] = {}
        self._pixels: dict[Hashable, Tensor] = {}

    def __call__(self, preprocess: ClipPreprocess) -> Tensor:
        """The images after `preprocess`."""
        if preprocess.key not in self._pixels:
            size = preprocess.size
            if size not in self._cropped:
                self._cropped[size] = resize_and_crop(self.images, size)
            self._pixels[preprocess.key] = preprocess.normalise(self._cropped[size])
        return self._pixels[preprocess.key]


def resize_and_crop(images: Tensor, size: int) -> Tensor:
    """Antialiased bicubic resize of the shorter side to `size`, and centre crop.

    Args:
        images: [B, C, H, W].
        size: in pixels.

    Returns:
        [B, C, size, size]. Images of that size are returned as they are.
    """
    resized = transforms.resize(images, [size], transforms.InterpolationMode.BICUBIC, antialias=True)
    return transforms.center_crop(resized, [size, size])
