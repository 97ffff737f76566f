"""Means over training seeds, with intervals that say how far they are from the mean of all seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t

SEED = "seed_everything"
"""The option whose values are training seeds."""


def mean_and_interval(values: Sequence[float]) -> tuple[float, list[float] | None]:
    """The mean of n seeds and its 95 % interval, mean -+ t(.975, n - 1) s / sqrt(n), with s their standard deviation.

    Args:
        values: one of each seed; a single one has no interval.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, [mean - half, mean + half]
