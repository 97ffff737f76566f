"""Mean and standard deviation of the scores of a reward, to bring rewards to a common scale."""

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class ScoreStatistics:
    """Statistics of the scores of one reward on images of the base generator.

    Attributes:
        mean: of the scores.
        std: their standard deviation, above 0.

    Raises:
        ValueError: if a number is not finite, or `std` is not positive.
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
