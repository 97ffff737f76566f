"""What a gradient of noise may go through before a step is taken along it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class GradientTransform(ABC):
    """A map of gradients, each sample's by itself: a result must not depend on the batch."""

    def check(self, shape: Sequence[int]) -> None:  # noqa: B027 - most transforms take any shape
        """Called before a search starts, with the noise's shape.

        Raises:
            ValueError: if gradients of this shape cannot be transformed.
        """

    @abstractmethod
    def __call__(self, gradient: Tensor) -> Tensor:
        """[B, *noise_shape] -> the same shape and data type."""


class WhiteNoiseProjection(GradientTransform):
    """The nearest direction whose spectrum is as flat as white Gaussian noise's (Hwang and Sung, arXiv 2602.08646).

    A step along it changes no frequency much more than the others, the shortcut by which an optimised noise stops being
    noise and rewards are hacked. With y the N / 2 independent complex coefficients of the flattened gradient's discrete
    Fourier transform, which for white noise are standard complex normal, every block of B consecutive ones is moved to
    the nearest point that has the norms expected of noise:

        |y|_1 = sqrt(pi) / 2 * B,   |y|_2^2 = B

    Its magnitudes are those of the block, lowered by a threshold (negative ones become 0), and scaled; phases stay. The
    direction alone is left of a gradient: the result's norm is sqrt(N).

    The paper takes steps of Adam along it and projects the noise too; `Reno` keeps its own descent, and the noise as it
    is. A gradient that is 0 in a whole block stays 0 there. Where so many of a block's magnitudes tie for the largest
    that no point is nearest, the block is scaled to |y|_2^2 = B.

    Args:
        block_size: B; 16 in the paper.

    Raises:
        ValueError: if it is below 2.
    """

    def __init__(self, block_size: int = 16):
        if block_size < 2:
            raise ValueError(f"block_size must be at least 2, not {block_size}")
        self.block_size = block_size

    def check(self, shape: Sequence[int]) -> None:
        n = math.prod(shape)
        if n % (2 * self.block_size):
            raise ValueError(
                f"WhiteNoiseProjection needs noise of a multiple of {2 * self.block_size} numbers (2 * block_size), "
                f"but noise of shape {list(shape)} has {n}; choose another block_size"
            )

    def __call__(self, gradient: Tensor) -> Tensor:
        self.check(gradient.shape[1:])
        spectrum = compact_spectrum(gradient.flatten(1).double())
        projected = _project_blocks(spectrum.unflatten(1, (-1, self.block_size))).flatten(1)
        return from_compact_spectrum(projected).view_as(gradient).to(gradient.dtype)


def compact_spectrum(x: Tensor) -> Tensor:
    """The independent coefficients of the unitary discrete Fourier transform of real signals, [B, N] -> [B, N / 2].

    The first and the middle coefficient are real, and are kept as the real and imaginary part of one, divided by
    sqrt(2). Standard normal signals become standard complex normal coefficients, and |x|^2 = 2 |y|^2.

    Args:
        x: float32 or float64, N even.

    Returns:
        complex64 or complex128.
    """
    y = torch.fft.rfft(x, dim=1, norm="ortho")
    ends = torch.complex(y[:, :1].real, y[:, -1:].real) / math.sqrt(2)
    return torch.cat([ends, y[:, 1:-1]], dim=1)


def from_compact_spectrum(y: Tensor) -> Tensor:
    """The inverse of `compact_spectrum`, [B, N / 2] -> [B, N]."""
    ends = y[:, :1] * math.sqrt(2)
    whole = torch.cat([ends.real + 0j, y[:, 1:], ends.imag + 0j], dim=1)
    return torch.fft.irfft(whole, n=2 * y.shape[1], dim=1, norm="ortho")


def _project_blocks(y: Tensor) -> Tensor:
    """Each block [..., B] of complex numbers moved to the nearest one with the norms of noise.

    If the k largest magnitudes w stay above the threshold t, the ratio of the norms asks for
    (S1 - k t)^2 = c (S2 - 2 t S1 + k t^2) with c = pi / 4 * B and S1, S2 the sums of those w and w^2, hence
    t = (S1 - sqrt(c (k S2 - S1^2) / (k - c))) / k. One k > c fits: the one with w_(k+1) <= t < w_k.
    """
    size = y.shape[-1]
    c = math.pi / 4 * size
    magnitude = y.abs()
    w = magnitude.sort(dim=-1, descending=True).values
    k = torch.arange(1, size + 1, dtype=w.dtype, device=w.device)
    first, second = w.cumsum(-1), w.square().cumsum(-1)
    allowed = k > c
    spread = (k * second - first.square()).clamp_min(0)
    thresholds = (first - (c * spread / (k - c).where(allowed, torch.ones_like(k))).sqrt()) / k
    following = torch.cat([w[..., 1:], torch.full_like(w[..., :1], -torch.inf)], dim=-1)
    fits = allowed & (following <= thresholds) & (thresholds < w)
    chosen = fits.to(torch.int8).argmax(dim=-1, keepdim=True)
    lowered = (magnitude - thresholds.gather(-1, chosen)).clamp_min(0)
    scaled = lowered * (math.sqrt(math.pi) / 2 * size / lowered.sum(-1, keepdim=True).clamp_min(1e-300))
    plain = magnitude * (math.sqrt(size) / torch.linalg.vector_norm(magnitude, dim=-1, keepdim=True).clamp_min(1e-300))
    phase = torch.where(magnitude > 0, y / magnitude.clamp_min(1e-300), torch.ones_like(y))
    return torch.where(fits.any(dim=-1, keepdim=True), scaled, plain) * phase
