"""Mean and spread of a reward's scores, by which rewards of different scales are compared."""

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class ScoreStatistics:
    """Scores of one reward on the base generator's images.

    Attributes:
        mean: of the scores.
        std: their standard deviation, above 0.

    Raises:
        ValueError: if the numbers cannot be those of scores that differ.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"Scores need a finite mean and a standard deviation above 0, not {self.mean}, {self.std}."
            )

    @classmethod
    def of(cls, scores: Tensor) -> Self:
        """Statistics of scores [N], N >= 2, computed in float64; the standard deviation divides by N - 1.

        Raises:
            ValueError: if there are fewer than two scores, or all are equal.
        """
        if scores.ndim != 1 or len(scores) < 2:
            raise ValueError(f"Statistics take scores [N] with N >= 2, not {list(scores.shape)}.")
        scores = scores.double()
        return cls(scores.mean().item(), scores.std().item())

    def normalise(self, scores: Tensor) -> Tensor:
        """(scores - mean) / std."""
        return (scores - self.mean) / self.std
