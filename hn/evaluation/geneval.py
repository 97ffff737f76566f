"""GenEval's verdict on one image, from what a detector found in it (arXiv 2310.11513; github.com/djghosh13/geneval).

Pure functions of detections: no model is loaded here. The official script computes with boxes and scores in float32; so
does this module, because a verdict may hang on the last bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Detection:
    """One object found in an image.

    Attributes:
        box: (x0, y0, x1, y1) in pixels, y pointing down.
        score: the detector's confidence in [0, 1].
        color: one of `COLORS` where it is known; only clauses that name a colour read it.
        mask: what a colour classifier needs to see of the object (as a rule a boolean [H, W] array); never read here.
    """

    box: Box
    score: float
    color: str | None = None
    mask: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class VerdictOptions:
    """The official script's settings.

    Attributes:
        threshold: a detection counts when its score is strictly above this.
        counting_threshold: the same for prompts of the tag `counting`.
        max_objects: at most so many detections of a class are looked at.
        max_overlap: a detection is dropped when its IoU with a better one of its class reaches this; 1.0 drops none.
        position_threshold: how far, in units of the summed extents, centres must be apart to be in a relation.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an image shows what its prompt asks for; `reason` has one line for each thing amiss, "" if correct."""

    correct: bool
    reason: str
    kept: dict[str, list[Detection]]


ColorClassifier = Callable[[str, Sequence[Detection]], Sequence[str]]
"""(class name, objects of that class) -> the colour of each object, one of `COLORS`."""


def known_colors(class_name: str, objects: Sequence[Detection]) -> list[str]:
    """Colour classifier that reads `Detection.color`.

    Raises:
        ValueError: if an object has no colour.
    """
    if any(found.color is None for found in objects):
        raise ValueError(
            f"a clause asks for the colour of '{class_name}' but its detections carry none: "
            "set Detection.color or pass a colour classifier"
        )
    return [found.color for found in objects]


def evaluate(
    detections: Mapping[str, Sequence[Detection]],
    metadata: Mapping[str, Any],
    options: VerdictOptions | None = None,
    color_classifier: ColorClassifier = known_colors,
) -> Verdict:
    """GenEval's verdict on one image.

    Args:
        detections: everything the detector found, by class name, in the detector's order.
        metadata: a row of the official prompt file: `tag`, `include` and optionally `exclude`.
        options: thresholds; the official ones by default.
        color_classifier: asked only for the objects whose colour a clause names.

    Raises:
        ValueError: if a clause is malformed or a needed colour is missing.
    """
    options = options or VerdictOptions()
    kept = keep_detections(detections, metadata.get("tag"), options)
    reasons: list[str] = []
    matched: list[list[Detection] | None] = []
    for clause in metadata.get("include", []):
        found = kept.get(clause["class"], [])[: clause["count"]]
        complaint = _count_complaint(clause, found)
        if complaint is None and "color" in clause:
            complaint = _color_complaint(clause, list(color_classifier(clause["class"], found)))
        if complaint is None and "position" in clause:
            complaint = _position_complaint(clause, found, matched, options.position_threshold)
        if complaint is not None:
            reasons.append(complaint)
        matched.append(found if complaint is None else None)
    for clause in metadata.get("exclude", []):
        n_found = len(kept.get(clause["class"], []))
        if n_found >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {n_found}")
    return Verdict(correct=not reasons, reason="\n".join(reasons), kept=kept)


def keep_detections(
    detections: Mapping[str, Sequence[Detection]], tag: str | None, options: VerdictOptions
) -> dict[str, list[Detection]]:
    """The detections a verdict looks at, best first; classes without any are left out.

    Of equal scores the later one comes first, as in the official script (a reversed stable sort).
    """
    threshold = np.float32(options.counting_threshold if tag == "counting" else options.threshold)
    kept = {}
    for class_name, found in detections.items():
        scores = np.array([detection.score for detection in found], dtype=np.float32)
        order = np.argsort(scores, kind="stable")[::-1]
        best = [found[i] for i in order[scores[order] > threshold][: options.max_objects]]
        if options.max_overlap < 1.0:
            best = _without_overlaps(best, options.max_overlap)
        if best:
            kept[class_name] = best
    return kept


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, both edges counted as inside (extent = x1 - x0 + 1, as in COCO of old)."""
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    intersection = _area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))
    union = _area(a) + _area(b) - intersection
    return intersection / union if union else np.float32(0.0)


def relations(a: Box, b: Box, threshold: float = 0.1) -> set[str]:
    """The relations, out of `RELATIONS`, in which the object at `a` stands to the object at `b`.

    The offset of the centres is shrunk towards 0 on each axis by `threshold` times the summed extents, then divided by
    the length of the unshrunk offset; beyond half in a direction counts as that direction, so two relations may hold.
    """
    corners_a, corners_b = (np.asarray(box, dtype=np.float32).reshape(2, 2) for box in (a, b))
    offset = corners_a.mean(axis=0) - corners_b.mean(axis=0)
    extents = np.abs(corners_a[1] - corners_a[0]) + np.abs(corners_b[1] - corners_b[0])
    shrunk = np.sign(offset) * np.maximum(np.abs(offset) - threshold * extents, 0)
    if np.all(np.abs(shrunk) < 1e-3):
        return set()
    x, y = shrunk / np.linalg.norm(offset)
    return {name for name, holds in zip(RELATIONS, (x < -0.5, x > 0.5, y < -0.5, y > 0.5), strict=True) if holds}


def _count_complaint(clause: Mapping[str, Any], found: Sequence[Detection]) -> str | None:
    if len(found) >= clause["count"]:
        return None
    return f"expected {clause['class']}>={clause['count']}, found {len(found)}"


def _color_complaint(clause: Mapping[str, Any], colors: list[str]) -> str | None:
    wanted = clause["color"]
    n_wanted = colors.count(wanted)
    if n_wanted >= clause["count"]:
        return None
    tally = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
    return f"expected {wanted} {clause['class']}>={clause['count']}, found {n_wanted} {wanted}; and {tally}"


def _position_complaint(
    clause: Mapping[str, Any],
    found: Sequence[Detection],
    matched: Sequence[Sequence[Detection] | None],
    threshold: float,
) -> str | None:
    """The first pair of objects that is not in the wanted relation; `matched` holds the earlier clauses' objects."""
    wanted, target = clause["position"]
    if wanted not in RELATIONS or not 0 <= target < len(matched):
        raise ValueError(
            f"position {clause['position']} of '{clause['class']}' must be one of {', '.join(RELATIONS)} "
            f"and the index of an earlier include clause (there are {len(matched)})"
        )
    if matched[target] is None:
        return f"no target for {clause['class']} to be {wanted}"
    for a in found:
        for b in matched[target]:
            actual = relations(a.box, b.box, threshold)
            if wanted not in actual:
                return f"expected {clause['class']} {wanted} target, found {' and '.join(sorted(actual))} target"
    return None


def _area(box: np.ndarray) -> np.float32:
    width, height = np.maximum(box[2:] - box[:2] + 1, 0)
    return width * height


def _without_overlaps(best_first: Sequence[Detection], max_overlap: float) -> list[Detection]:
    """Greedy non-maximum suppression."""
    kept: list[Detection] = []
    for candidate in best_first:
        if all(box_iou(better.box, candidate.box) < max_overlap for better in kept):
            kept.append(candidate)
    return kept
