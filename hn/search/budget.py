"""When a search ends before it has made all its iterations."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What a prompt's search may take, beside its own number of iterations; it ends as soon as one of these is reached.

    Each prompt has a budget of its own. One whose search has ended leaves the batch, so that the others' images alone
    are computed from there on. Every prompt gets one image at least.

    Args:
        max_nfe: function evaluations of the backbone, forward ones, a warm start's included. An iteration that would
            take more is not begun.
        max_seconds: seconds, as shares of the batches that the prompt is in. Looked at between iterations (of
            `BestOfN`: between batches), so that the last one may take longer. What such a search finds depends on the
            machine and on the batches: it is not reproducible.
        patience: iterations in a row in which the best reward has not improved by more than `min_delta` over what it
            was when it last did.
        min_delta: improvements up to this are none to `patience`; their images are kept all the same.

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
            raise ValueError(f"min_delta ({self.min_delta}) says what ends the `patience` of a search; give that too")
