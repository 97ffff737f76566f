"""What every subspace of the noise offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor

from hn.generators.base import Generator
from hn.generators.bound import BoundToGenerator


class Subspace(BoundToGenerator, ABC):
    """A linear subspace of a generator's noise with an orthonormal basis Q [D, d], d the noise dimensions.

    The coefficients of noise x0 ~ N(0, I) are N(0, I) too.
    """

    def build(self, generator: Generator) -> Self:
        """Bind the subspace to the generator's noise.

        Raises:
            ValueError: if the subspace's options do not fit the shape of the noise.
        """
        self._built_on = (generator,)
        self._check(generator)
        return self

    def _check(self, generator: Generator) -> None:
        """Raises a ValueError if the options do not fit the generator's noise."""

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """D, the number of coefficients."""

    @abstractmethod
    def coefficients(self, noise: Tensor) -> Tensor:
        """Q x: noise [B, *noise_shape] -> coefficients [B, D]."""

    @abstractmethod
    def expand(self, coefficients: Tensor) -> Tensor:
        """Q^T c: coefficients [B, D] -> noise [B, *noise_shape]."""

    def project(self, noise: Tensor) -> Tensor:
        """P x = Q^T Q x: the part of noise [B, *noise_shape] that lies in the subspace."""
        return self.expand(self.coefficients(noise))
