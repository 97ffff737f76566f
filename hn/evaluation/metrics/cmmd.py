"""Distances between two sets of images, as functions of their features; no model is loaded here.

All are computed in float64: they are small differences of large numbers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize


def cmmd(x: Tensor, y: Tensor, *, sigma: float = 10.0, scale: float = 1000.0, unbiased: bool = True) -> float:
    """CLIP maximum mean discrepancy (arXiv 2401.09603): squared MMD of L2-normalised embeddings, times `scale`.

        MMD^2 = E[k(x, x')] + E[k(y, y')] - 2 E[k(x, y)],   k(u, v) = exp(-|u - v|^2 / (2 sigma^2))

    Args:
        x: embeddings of the first set, [n, d], any floating dtype; normalised here.
        y: embeddings of the second set, [m, d].
        sigma: width of the kernel; 10 in the paper.
        scale: factor that brings the result to a readable size; 1000 in the paper.
        unbiased: leave out the pairs of a sample with itself. The estimate then scatters around 0, and may be negative,
            for samples of the same distribution; with them (the paper's published code) it never is, but is too large
            by O(1/n).

    Raises:
        ValueError: if a set is not [n, d] with n >= 2, or the dimensions differ.
    """
    x, y = (normalize(features, dim=1) for features in _checked(x, y))

    def kernel(products: Tensor) -> Tensor:
        return torch.exp((products - 1) / sigma**2)  # |u - v|^2 / 2 = 1 - u.v for rows of unit length

    within = [_kernel_sum(features, features, kernel) for features in (x, y)]
    counts = [len(x), len(y)]
    if unbiased:  # k(u, u) = 1, so the diagonal sums to n
        terms = [(total - n) / (n * (n - 1)) for total, n in zip(within, counts, strict=True)]
    else:
        terms = [total / n**2 for total, n in zip(within, counts, strict=True)]
    between = _kernel_sum(x, y, kernel) / (counts[0] * counts[1])
    return scale * (terms[0] + terms[1] - 2 * between)


def kid(x: Tensor, y: Tensor, *, degree: int = 3) -> float:
    """Kernel distance (KID, arXiv 1801.01401, when the features are Inception's): unbiased squared MMD.

        MMD^2 = E[k(x, x')] + E[k(y, y')] - 2 E[k(x, y)],   k(u, v) = (u.v / d + 1)^degree

    It scatters around 0 for samples of one distribution, however few they are, which FID does not. All pairs count;
    torchmetrics takes the mean over random subsets, whose expectation is the same.

    Args:
        x: features of the first set, [n, d], any floating dtype.
        y: features of the second set, [m, d].
        degree: of the kernel; 3 in the paper.

    Raises:
        ValueError: if a set is not [n, d] with n >= 2, or the dimensions differ.
    """
    x, y = _checked(x, y)

    def kernel(products: Tensor) -> Tensor:
        return (products / x.shape[1] + 1) ** degree

    within = 0.0
    for features in (x, y):
        n = len(features)
        diagonal = float(kernel(features.square().sum(dim=1)).sum())
        within += (_kernel_sum(features, features, kernel) - diagonal) / (n * (n - 1))
    return within - 2 * _kernel_sum(x, y, kernel) / (len(x) * len(y))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to two feature sets (FID when the features are Inception's).

        |mean_x - mean_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)),   S with n - 1 in the denominator

    With centred features X / sqrt(n - 1) = Q_x R_x one has S_x = R_x^T R_x, and the trace of the root is the sum of
    the singular values of R_x R_y^T: no matrix root is taken, and singular covariances (n <= d) lose no accuracy.

    Args:
        x: features of the first set, [n, d], any floating dtype.
        y: features of the second set, [m, d].

    Raises:
        ValueError: if a set is not [n, d] with n >= 2, or the dimensions differ.
    """
    x, y = _checked(x, y)
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    root_x, root_y = _covariance_root(x - mean_x), _covariance_root(y - mean_y)
    cross = torch.linalg.svdvals(root_x @ root_y.T).sum()
    spread = root_x.square().sum() + root_y.square().sum() - 2 * cross
    return float((mean_x - mean_y).square().sum() + spread)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features must be [n, d] and [m, d] with n, m >= 2, not {list(x.shape)} and {list(y.shape)}")
    return x.detach().to(torch.float64), y.detach().to(torch.float64)


def _kernel_sum(x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor]) -> float:
    """Sum over all pairs of rows of a kernel of their products, in blocks to bound memory."""
    return math.fsum(float(kernel(block @ y.T).sum()) for block in x.split(1024))


def _covariance_root(centred: Tensor) -> Tensor:
    """R with R^T R = covariance, [min(n, d), d]."""
    return torch.linalg.qr(centred / (len(centred) - 1) ** 0.5, mode="r").R
