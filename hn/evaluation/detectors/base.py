"""What a detector is, and the verdicts on images by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from hn.evaluation.geneval import Detection, Verdict, VerdictOptions, evaluate

Detections = dict[str, list[Detection]]
"""What was found in one image, by class."""


class Detector(Protocol):
    """Finds objects: images [B, 3, H, W] in [0, 1] -> for each image the detections of every class."""

    def detect(self, images: Tensor) -> list[dict[str, list[Detection]]]: ...


@runtime_checkable
class RowDetector(Protocol):
    """A detector that has less to do where it knows what the images are asked for.

    `detect_for` finds for images [B, 3, H, W] in [0, 1] and their B rows what `detect` does, but may leave out colours
    that no clause of an image's row names.
    """

    def detect_for(
        self, images: Tensor, metadata: Sequence[Mapping[str, Any]], options: VerdictOptions
    ) -> list[Detections]: ...


def geneval_verdicts(
    detector: Detector, images: Tensor, metadata: Sequence[Mapping[str, Any]], options: VerdictOptions | None = None
) -> list[Verdict | None]:
    """GenEval's verdict on each of the images [B, 3, H, W] in [0, 1], None for one whose row asks nothing.

    Args:
        detector: finds the objects.
        images: what the verdicts are on.
        metadata: B rows of a prompt file like GenEval's.
        options: thresholds; the official ones by default.
    """
    options = options or VerdictOptions()
    if isinstance(detector, RowDetector):
        found = detector.detect_for(images, metadata, options)
    else:
        found = detector.detect(images)
    return [
        evaluate(detections, row, options) if row.get("include") else None
        for detections, row in zip(found, metadata, strict=True)
    ]
