"""Principal components of noises that a search found (the idea of LENS, arXiv 2605.07253)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hn.generators.base import Generator
from hn.generators.subspaces.base import Subspace

_KEY = "components"


def fit_principal_components(displacements: Tensor, dimensions: int) -> Tensor:
    """The directions along which searches moved the noise most.

    Args:
        displacements: [N, *noise_shape], found noise minus start noise. They are not centred: their mean is a direction
            of its own.
        dimensions: D, at most N.

    Returns:
        Q [D, d] with orthonormal rows, float32, the largest variance first.

    Raises:
        ValueError: if D is below 1 or above N.
    """
    rows = displacements.flatten(1).double()
    if not 1 <= dimensions <= min(rows.shape):
        raise ValueError(f"dimensions must be between 1 and {min(rows.shape)}, not {dimensions}.")
    return torch.linalg.svd(rows, full_matrices=False).Vh[:dimensions].float()


def save_principal_components(components: Tensor, path: Path) -> None:
    """Write Q [D, d] to a safetensors file that `PrincipalComponents` reads."""
    save_file({_KEY: components.contiguous()}, path)


class PrincipalComponents(Subspace):
    """The subspace that a file of `save_principal_components` holds.

    Args:
        file: safetensors file with `components` [D, d].

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it holds no components, or rows that are not orthonormal.
    """

    components: Tensor

    def __init__(self, file: str) -> None:
        super().__init__()
        if not Path(file).is_file():
            raise FileNotFoundError(f"There is no file {file} with principal components of the noise.")
        found = load_file(file).get(_KEY)
        if found is None or found.ndim != 2:
            raise ValueError(f"{file} has no matrix named {_KEY!r} [D, noise dimensions].")
        gram = found @ found.T
        if not torch.allclose(gram, torch.eye(len(found), dtype=gram.dtype, device=gram.device), atol=1e-3):
            raise ValueError(f"The rows of {_KEY!r} in {file} are not orthonormal.")
        self.file = file
        self.register_buffer("components", found, persistent=False)

    def _check(self, generator: Generator) -> None:
        wanted = math.prod(generator.noise_shape)
        if self.components.shape[1] != wanted:
            raise ValueError(
                f"{self.file} is for noise of {self.components.shape[1]} dimensions, but this generator's noise "
                f"{[*generator.noise_shape]} has {wanted}."
            )

    @property
    def dimensions(self) -> int:
        return len(self.components)

    def coefficients(self, noise: Tensor) -> Tensor:
        return noise.flatten(1) @ self.components.to(noise).T

    def expand(self, coefficients: Tensor) -> Tensor:
        return (coefficients @ self.components.to(coefficients)).unflatten(1, self.generator.noise_shape)
