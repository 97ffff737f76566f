"""Uncertainty of the difference between two methods measured on the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap


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

    groups_of_values = [difference[labels == label] for label in np.unique(labels)]
    # SciPy refuses a group of one prompt. Drawn with replacement it is always the same.
    drawn = [group for group in groups_of_values if len(group) > 1]
    sum_of_others = sum(group[0] for group in groups_of_values if len(group) == 1)

    def mean_of_groups(*values: np.ndarray, axis: int) -> np.ndarray:
        return (sum(group.mean(axis) for group in values) + sum_of_others) / len(groups_of_values)

    mean = low = high = float(mean_of_groups(*drawn, axis=0))
    if drawn:
        batch = max(1, 4_000_000 // max(map(len, drawn)))  # resamples at a time, which bounds the memory
        options = {"n_resamples": n_resamples, "batch": batch, "confidence_level": confidence, "method": "percentile"}
        found = bootstrap(drawn, mean_of_groups, vectorized=True, rng=np.random.default_rng(seed), **options)
        low, high = map(float, found.confidence_interval)
    return PairedDifference(mean, low, high, confidence, n_prompts=len(difference))
