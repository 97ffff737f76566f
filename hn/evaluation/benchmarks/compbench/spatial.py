"""T2I-CompBench's metric of spatial relations in the plane: where a detector finds the two objects of a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hn.evaluation.benchmarks.base import BenchmarkMetric, ImageScores, Row
from hn.evaluation.detectors.base import Detections, Detector, RowDetector
from hn.evaluation.detectors.owlv2 import PRETRAINED, Owlv2Detector
from hn.evaluation.geneval import Box, Detection, VerdictOptions
from hn.utils.class_path import class_path
from hn.utils.hub import Repository, repositories_in

NEAR = ("on side of", "next to", "near")
DIRECTIONS = {
    "on the left of": (0, 1),
    "on the right of": (0, -1),
    "on the top of": (1, 1),
    "on the bottom of": (1, -1),
}
"""Axis (0 for x, 1 for y), and the sign of the second object's centre minus the first one's on it."""

PERSONS = ("girl", "boy", "man", "woman")  # all of them "person" to the detector

_OBJECT = r"(?:(?:an?|the) )?(\w+(?: \w+)?)"
_PROMPT = re.compile(rf"{_OBJECT} ({'|'.join((*NEAR, *DIRECTIONS))}) {_OBJECT}\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SpatialOptions:
    """Settings of the score; all but the first are the official tool's.

    Attributes:
        threshold: a detection counts when its score is strictly above this. The official tool has 0.5, for UniDet.
        overlap: where the boxes' IoU reaches this, a direction counts less: overlap / IoU.
        distance: centres that are nearer than this on one of the axes are near each other, in pixels of the image at
            `frame`.
        frame: the images' size to which `distance` refers: shorter side one pixel less than this, the longer one at
            most this.
        least: scores below this become 0.
    """

    threshold: float = 0.1
    overlap: float = 0.1
    distance: float = 150.0
    frame: int = 480
    least: float = 0.5


class Relation(NamedTuple):
    """What a spatial prompt asks for: two objects by name, and one of `NEAR` or `DIRECTIONS`."""

    first: str
    relation: str
    second: str


class SpatialMetric(BenchmarkMetric):
    """`spatial` in [0, 1]: a quarter of each object's detection score, plus half of how well their relation holds.

    The prompt is "a cat on the left of a dog": one of `NEAR` or `DIRECTIONS` between two objects of a word or two. (On
    the official 1000 prompts these are the first and the last noun that spaCy 3.8 finds, which the official tool
    takes.) Girl, boy, man and woman are "person". Of each object the detection with the highest score counts, the same
    one where both are persons; with one object the relation does not hold; scores below a half are 0.

    The rules are those of 2D_spatial_eval.py of the official repository, the detector is not: UniDet does not load
    through transformers, and its scores and boxes are other ones. Scores are comparable with each other, not with
    published ones. 3D relations ("in front of") are not scored.

    Args:
        detector: finds the objects; `Owlv2Detector()` if not given. One that knows a list of classes only has to know
            the prompts'.
        options: settings of the score.

    Raises:
        FileNotFoundError, ValueError: of the detector.
    """

    needs = "a prompt like 'a cat on the left of a dog'"
    score_names = ("spatial",)

    def __init__(self, detector: Detector | None = None, options: SpatialOptions | None = None) -> None:
        super().__init__()
        self.options = options or SpatialOptions()
        self.detector = Owlv2Detector(floor=self.options.threshold) if detector is None else detector

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        detector = {"class_path": class_path(Owlv2Detector), "init_args": {"pretrained": PRETRAINED}}
        return repositories_in(arguments.get("detector") or detector)

    @classmethod
    def asks(cls, row: Row) -> bool:
        return read_relation(row.get("prompt", "")) is not None

    @torch.no_grad()
    def score(self, images: Tensor, rows: Sequence[Row]) -> list[ImageScores]:
        relations = [read_relation(row["prompt"]) for row in rows]
        self._require_known(relations)
        size = tuple(images.shape[-2:])
        found = self._detect(images, relations)
        return [self._image_scores(*pair, size) for pair in zip(found, relations, strict=True)]

    def _detect(self, images: Tensor, relations: Sequence[Relation]) -> list[Detections]:
        if not isinstance(self.detector, RowDetector):
            return self.detector.detect(images)
        wanted = [{"include": [{"class": name, "count": 1} for name in (r.first, r.second)]} for r in relations]
        return self.detector.detect_for(images, wanted, VerdictOptions(threshold=self.options.threshold))

    def _image_scores(self, detections: Detections, relation: Relation, size: tuple[int, int]) -> ImageScores:
        best = [best_detection(detections, name, self.options.threshold) for name in (relation.first, relation.second)]
        details = {"relation": list(relation)} | {
            name: None if found is None else [*found.box, found.score]
            for name, found in zip(("first", "second"), best, strict=True)
        }
        return ImageScores({"spatial": spatial_score(*best, relation.relation, size, self.options)}, details)

    def _require_known(self, relations: Sequence[Relation]) -> None:
        known = getattr(self.detector, "classes", None)
        names = dict.fromkeys(name for relation in relations for name in (relation.first, relation.second))
        unknown = [] if known is None else [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"The prompts ask for {', '.join(unknown)}, which the detector does not know; take one that finds "
                "what it is asked for, like hn.evaluation.detectors.Owlv2Detector."
            )


def read_relation(prompt: str) -> Relation | None:
    """What a prompt like "a cat on the left of a girl" asks for; None if it is another kind of prompt."""
    match = _PROMPT.fullmatch(prompt.strip())
    if match is None:
        return None
    first, relation, second = (part.lower() for part in match.groups())
    return Relation(*("person" if part in PERSONS else part for part in (first, relation, second)))


def best_detection(detections: Mapping[str, Sequence[Detection]], name: str, threshold: float) -> Detection | None:
    """The object of that name with the highest score above the threshold, the first of equal ones."""
    above = [found for found in detections.get(name, ()) if found.score > threshold]
    return max(above, key=lambda found: found.score, default=None)


def spatial_score(
    first: Detection | None,
    second: Detection | None,
    relation: str,
    size: tuple[int, int],
    options: SpatialOptions | None = None,
) -> float:
    """The score in [0, 1] of one image.

    Args:
        first: the first object, if it was found.
        second: the second one.
        relation: one of `NEAR` or `DIRECTIONS`, in which the first object stands to the second.
        size: height and width of the image in pixels.
        options: settings; the default ones if not given.
    """
    options = options or SpatialOptions()
    score = 0.25 * sum(found.score for found in (first, second) if found is not None)
    if first is not None and second is not None:
        score += 0.5 * relation_score(first.box, second.box, relation, size, options)
    return score if score >= options.least else 0.0


def relation_score(
    first: Box, second: Box, relation: str, size: tuple[int, int], options: SpatialOptions | None = None
) -> float:
    """How well a relation holds between two boxes (x0, y0, x1, y1), from 0 to 1; see `spatial_score`.

    A direction holds if the centres lie apart in it, farther than on the other axis. Objects are near each other if
    their centres are within `distance` on one of the axes, and less so in proportion to the larger of the two offsets.
    """
    options = options or SpatialOptions()
    scale = frame_scale(size, options.frame)
    a, b = (np.asarray(box, dtype=float) * np.tile(scale, 2) for box in (first, second))
    offset = (b[:2] + b[2:] - a[:2] - a[2:]) / 2
    if relation in NEAR:
        if np.abs(offset).min() < options.distance:
            return 1.0
        return float(options.distance / np.abs(offset).max())
    axis, sign = DIRECTIONS[relation]
    if sign * offset[axis] <= abs(offset[1 - axis]):
        return 0.0
    overlap = plain_iou(a, b)
    return 1.0 if overlap < options.overlap else float(options.overlap / overlap)


def frame_scale(size: tuple[int, int], frame: int) -> tuple[float, float]:
    """Factors of x and y from an image of that height and width to the size that the official tool resizes it to."""
    height, width = size
    short, long = min(size), max(size)
    new_short, new_long = frame - 1, int((frame - 1) * long / short)
    if new_long > frame:
        new_short, new_long = int(frame * short / long), frame
    new_height, new_width = (new_short, new_long) if height <= width else (new_long, new_short)
    return new_width / width, new_height / height


def plain_iou(a: Any, b: Any) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1) whose extent is x1 - x0; 0 for two empty ones."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    intersection = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - intersection
    return float(intersection / union) if union > 0 else 0.0
