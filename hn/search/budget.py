"""When a search ends before it has made all its iterations."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What a prompt's search may take, beside its own number of iterations; it ends as soon as one of these is reached.

    Each prompt has a budget of its own. A prompt whose search has ended leaves the batch, and no more images of it are
    computed. Every prompt gets one image at least.

    Args:
        max_nfe: function evaluations of the backbone, forward ones, a warm start's included. An iteration that would
            take more is not begun.
        max_seconds: a prompt's share of the time of its batches. Checked between iterations (of `BestOfN`: between
            batches), so that the last one may take longer. The result depends on the machine and on the batches: it is
            not reproducible.
        patience: iterations in a row in which the best reward has not risen by more than `min_delta` above its value at
            the last such rise.
        min_delta: a smaller rise does not count for `patience`; its image is kept all the same.

    Raises:
        ValueError: if a number is out of range, or `min_delta` is given without `patience`.
    """

    max_nfe: int | None = None
    max_seconds: float | None = None
    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_nfe", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None for no limit, not {value}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be positive, or None for no limit, not {self.max_seconds}")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta must not be negative, not {self.min_delta}")
        if self.min_delta and self.patience is None:
            raise ValueError(f"min_delta ({self.min_delta}) is an option of `patience`; give `patience` too")
