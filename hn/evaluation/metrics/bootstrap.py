"""Uncertainty of the difference between two methods measured on the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean difference b - a, with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float
    confidence: float
    n_prompts: int


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Percentile bootstrap of mean(b - a) over prompts.

    Prompts are drawn with replacement and both methods keep their scores for a drawn prompt, so the part of a prompt's
    difficulty that hits both alike cancels. Images of one prompt are not independent and are averaged first.

    Args:
        a: scores of the first method, [prompts] or [prompts, images], higher is better by convention.
        b: scores of the second method, the same shape.
        groups: a label for each prompt (GenEval's tag); the result is then the mean of the groups' mean differences,
            each group weighing the same, and prompts are drawn within their group.
        confidence: coverage of the interval, in (0, 1).
        n_resamples: number of bootstrap samples.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: if shapes differ, there are no prompts, a score is not finite, or an argument is out of range.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim not in (1, 2) or a.size == 0:
        raise ValueError(
            f"a paired bootstrap needs two equal shapes, [prompts] or [prompts, images], not {a.shape} and {b.shape}"
        )
    if not 0 < confidence < 1 or n_resamples < 1:
        raise ValueError(f"confidence must be in (0, 1) and n_resamples positive, not {confidence} and {n_resamples}")
    difference = (b - a).reshape(len(a), -1).mean(axis=1)
    if not np.isfinite(difference).all():
        raise ValueError("scores must be finite")
    labels = np.zeros(len(a)) if groups is None else np.asarray(groups)
    if labels.shape != (len(a),):
        raise ValueError(f"{len(a)} prompts need as many group labels, not {len(labels)}")

    members = [difference[labels == label] for label in np.unique(labels)]
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(group, n_resamples, rng) for group in members], axis=0)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(
        mean=float(np.mean([group.mean() for group in members])),
        low=float(low),
        high=float(high),
        confidence=confidence,
        n_prompts=len(difference),
    )


def _resampled_means(values: np.ndarray, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `n_resamples` draws with replacement of all of `values`, [n_resamples]."""
    block = max(1, 4_000_000 // len(values))  # bounds the index array to 32 MB
    sizes = [min(block, n_resamples - start) for start in range(0, n_resamples, block)]
    return np.concatenate([values[rng.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in sizes])
