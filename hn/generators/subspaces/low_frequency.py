"""The lowest frequencies of the noise's discrete cosine transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hn.generators.base import Generator
from hn.generators.subspaces.base import Subspace
from hn.utils.device import to_device


def cosine_basis(size: int, frequencies: int) -> Tensor:
    """The first rows of the orthonormal DCT-II, [frequencies, size], float64:

    Q[k, x] = sqrt((2 - [k = 0]) / size) cos(pi (x + 1/2) k / size)
    """
    k = torch.arange(frequencies, dtype=torch.float64)[:, None]
    x = torch.arange(size, dtype=torch.float64)[None]
    basis = torch.cos(math.pi * (x + 0.5) * k / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


class LowFrequency(Subspace):
    """The lowest n x n coefficients of the discrete cosine transform (DCT-II) of each noise channel.

    The low frequencies of the noise decide the layout of the image. Their number does not depend on the image's size.

    Args:
        frequencies: n, in each direction.

    Raises:
        ValueError: if `frequencies` is below 1.
    """

    def __init__(self, frequencies: int = 4) -> None:
        super().__init__()
        if frequencies < 1:
            raise ValueError(f"frequencies must be at least 1, not {frequencies}.")
        self.frequencies = frequencies
        self._bases: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def _check(self, generator: Generator) -> None:
        _, height, width = generator.spatial_shape
        if self.frequencies > min(height, width):
            raise ValueError(
                f"frequencies must be at most {min(height, width)}, the smaller side of the noise "
                f"({height} x {width}), not {self.frequencies}."
            )

    @property
    def dimensions(self) -> int:
        return self.generator.spatial_shape[0] * self.frequencies**2

    def coefficients(self, noise: Tensor) -> Tensor:
        spatial = self.generator.to_spatial(noise)
        rows, columns = (self._basis(size, spatial) for size in spatial.shape[-2:])
        return torch.einsum("nh,bchw,mw->bcnm", rows, spatial, columns).flatten(1)

    def expand(self, coefficients: Tensor) -> Tensor:
        channels, height, width = self.generator.spatial_shape
        square = coefficients.unflatten(1, (channels, self.frequencies, self.frequencies))
        rows, columns = (self._basis(size, coefficients) for size in (height, width))
        return self.generator.from_spatial(torch.einsum("nh,bcnm,mw->bchw", rows, square, columns))

    def _basis(self, size: int, like: Tensor) -> Tensor:
        key = size, like.device, like.dtype
        if key not in self._bases:
            self._bases[key] = to_device(cosine_basis(size, self.frequencies).to(like.dtype), like.device)
        return self._bases[key]
