"""The whole space of the noise."""

from __future__ import annotations

import math

from torch import Tensor

from hn.generators.subspaces.base import Subspace


class WholeSpace(Subspace):
    """All noise dimensions: Q = I. For studies; in thousands of dimensions exploration finds little."""

    @property
    def dimensions(self) -> int:
        return math.prod(self.generator.noise_shape)

    def coefficients(self, noise: Tensor) -> Tensor:
        return noise.flatten(1)

    def expand(self, coefficients: Tensor) -> Tensor:
        return coefficients.unflatten(1, self.generator.noise_shape)
