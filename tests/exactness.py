"""Equality of floating-point results: bit for bit for the same operations, up to rounding for others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

# Sums are taken in another order for other batch sizes, strides, kernels or alignments of weights (their places in a
# file): every layer rounds otherwise.
ROUNDING_ULPS = 32  # of the largest value; up to 14 were measured


def assert_close_to_rounding(found: Tensor, expected: Tensor) -> None:
    """Differences are at most ROUNDING_ULPS units in the last place of the largest value."""
    scale = expected.abs().max().item() if expected.numel() else 0.0
    tolerance = ROUNDING_ULPS * torch.finfo(expected.dtype).eps * scale
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Weights take no gradients, as in hn: PyTorch chooses CPU kernels by that, even in `no_grad`."""
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def stock_images(pipe: DiffusionPipeline, *args: Any, **options: Any) -> Tensor:
    """What the pipeline gives without hn, from the same kernels as hn's."""
    with frozen(*(part for part in pipe.components.values() if isinstance(part, nn.Module))):
        return pipe(*args, output_type="pt", **options).images
