"""GenEval's detector for real images: objects by Mask2Former, their colours by CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hn.evaluation.detectors.base import Detections, Detector
from hn.evaluation.detectors.color import ClipColorClassifier, crop_object
from hn.evaluation.detectors.mask2former import PRETRAINED, Mask2FormerDetector
from hn.evaluation.geneval import Detection, VerdictOptions, keep_detections
from hn.utils.class_path import class_path
from hn.utils.hub import Repository, repositories_in
from hn.utils.images import to_pil


class GenEvalDetector(nn.Module):
    """Objects and their colours, as `hn.evaluation.geneval.evaluate` takes them.

    Args:
        detector: finds objects with masks; `Mask2FormerDetector()` if not given.
        color_classifier: names colours; `ClipColorClassifier()` if not given.

    Raises:
        FileNotFoundError, ValueError: of these two.
    """

    def __init__(self, detector: Detector | None = None, color_classifier: ClipColorClassifier | None = None) -> None:
        super().__init__()
        self.detector = Mask2FormerDetector() if detector is None else detector
        self.color_classifier = ClipColorClassifier() if color_classifier is None else color_classifier

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        """What an instance takes from the Hub; `arguments` are those of `__init__`."""
        detector = {"class_path": class_path(Mask2FormerDetector), "init_args": {"pretrained": PRETRAINED}}
        yield from repositories_in(arguments.get("detector") or detector)
        yield from repositories_in(
            arguments.get("color_classifier") or {"class_path": class_path(ClipColorClassifier), "init_args": {}}
        )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the objects that are looked for; None if the detector does not say."""
        return getattr(self.detector, "classes", None)

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[dict[str, list[Detection]]]:
        """For each of the images [B, 3, H, W] in [0, 1] the detections of every class; those that a verdict may look at
        (score above 0.3) have their colour."""
        threshold = VerdictOptions().threshold
        return self._colored(images, self.detector.detect(images), lambda _, found: found.score > threshold)

    @torch.no_grad()
    def detect_for(
        self, images: Tensor, metadata: Sequence[Mapping[str, Any]], options: VerdictOptions
    ) -> list[Detections]:
        """The same for a verdict on B rows: objects whose colour a clause names have it, others do not."""
        found = self.detector.detect(images)
        asked = [
            {
                id(detection)
                for clause in row.get("include", ())
                if "color" in clause
                for detection in _looked_at(detections, clause, row, options)
            }
            for detections, row in zip(found, metadata, strict=True)
        ]
        return self._colored(images, found, lambda number, detection: id(detection) in asked[number])

    def _colored(
        self, images: Tensor, found: list[Detections], is_wanted: Callable[[int, Detection], bool]
    ) -> list[Detections]:
        """The detections, those that are wanted with their colour: the whole batch's crops go through CLIP together."""
        wanted = [
            (number, name, place)
            for number, detections in enumerate(found)
            for name, objects in detections.items()
            for place, detection in enumerate(objects)
            if is_wanted(number, detection)
        ]
        pictures = {number: to_pil(images[number]) for number in {number for number, _, _ in wanted}}
        crops = [crop_object(pictures[number], found[number][name][place]) for number, name, place in wanted]
        colors = self.color_classifier.classify(crops, [name for _, name, _ in wanted])
        colored = [{name: list(objects) for name, objects in detections.items()} for detections in found]
        for (number, name, place), color in zip(wanted, colors, strict=True):
            colored[number][name][place] = replace(colored[number][name][place], color=color)
        return colored


def _looked_at(
    detections: Detections, clause: Mapping[str, Any], row: Mapping[str, Any], options: VerdictOptions
) -> list[Detection]:
    name = clause["class"]
    kept = keep_detections({name: detections.get(name, [])}, row.get("tag"), options)
    return kept.get(name, [])[: clause["count"]]
