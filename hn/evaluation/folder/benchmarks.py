"""Benchmark metrics and GenEval's verdicts of images on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from hn.evaluation.benchmarks.base import BenchmarkMetric, ScoreGroup
from hn.evaluation.benchmarks.geneval_results import FIELDS as GENEVAL_FIELDS
from hn.evaluation.benchmarks.geneval_results import GenevalSummary, result_row, summarize
from hn.evaluation.detectors.base import Detector, geneval_verdicts
from hn.evaluation.folder.images import ImageFile
from hn.evaluation.folder.layouts import GENEVAL_METADATA
from hn.evaluation.folder.score import BatchScorer, FolderMetric, Line, Statistics, by_method, line_of
from hn.evaluation.geneval import COLORS, RELATIONS, VerdictOptions


class BenchmarkScores(FolderMetric[list[ScoreGroup]]):
    """Scores of a `BenchmarkMetric`, for images with rows that it `asks`.

    Args:
        name: of the metric.
        metric_class: its class.
        section: its class path and arguments.
        make_metric: loads it.
    """

    def __init__(
        self,
        name: str,
        metric_class: type[BenchmarkMetric],
        section: Mapping[str, Any],
        make_metric: Callable[[], BenchmarkMetric],
    ) -> None:
        super().__init__(name, {"metric": section})
        self.metric_class, self.make_metric = metric_class, make_metric

    def choose(self, files: Sequence[ImageFile]) -> list[ImageFile]:
        asking = [file for file in files if self.metric_class.asks(file.row)]
        if not asking:
            raise ValueError(
                f"{self.name} can score none of the images: their prompts' rows have to have "
                f"{self.metric_class.needs}. --prompts names the set that they are of."
            )
        self.metric_class.check_rows([file.row for file in asking], self.settings["metric"].get("init_args", {}))
        return asking

    def load(self, files: Sequence[ImageFile], device: torch.device | str) -> BatchScorer:
        metric = self.make_metric().to(device)

        def score_batch(names: Sequence[str], images: Tensor, rows: Sequence[Mapping[str, Any]]) -> list[Line]:
            found = metric.score(images, rows)
            return [line_of(name, row, s.scores, s.details) for name, row, s in zip(names, rows, found, strict=True)]

        return score_batch

    def summarize(self, lines: Sequence[Line], files: Mapping[str, ImageFile]) -> list[ScoreGroup]:
        """The metric's means, of each method where several made the images."""
        methods = by_method(lines, files)
        if len(methods) == 1:
            return self.metric_class.summarize(lines)
        return [
            replace(group, name=f"{method}: {group.name}")
            for method, made in methods.items()
            for group in self.metric_class.summarize(made)
        ]


class GenevalVerdicts(FolderMetric[GenevalSummary]):
    """GenEval's verdicts, in the official format.

    Args:
        options: thresholds.
        section: class path and arguments of the detector.
        make_detector: loads the detector.
    """

    fields = GENEVAL_FIELDS

    def __init__(
        self, options: VerdictOptions, section: Mapping[str, Any], make_detector: Callable[[], Detector]
    ) -> None:
        super().__init__("geneval", {"detector": section, "options": asdict(options)})
        self.options, self.make_detector = options, make_detector

    def choose(self, files: Sequence[ImageFile]) -> list[ImageFile]:
        require_right_clauses(files)
        return list(files)

    def load(self, files: Sequence[ImageFile], device: torch.device | str) -> BatchScorer:
        """Load the detector.

        Raises:
            ValueError: if a prompt names a class that it does not know.
        """
        detector = self.make_detector()
        _require_known_classes(detector, files)
        if hasattr(detector, "to"):
            detector.to(device)

        def score_batch(names: Sequence[str], images: Tensor, rows: Sequence[Mapping[str, Any]]) -> list[Line]:
            verdicts = geneval_verdicts(detector, images, rows, self.options)
            return [result_row(*of_one) for of_one in zip(names, rows, verdicts, strict=True)]

        return score_batch

    def summarize(self, lines: Sequence[Line], files: Mapping[str, ImageFile]) -> GenevalSummary:
        return summarize(lines)

    def values(self, line: Line) -> Mapping[str, float | None]:
        """1 for a correct image, else 0."""
        return {self.name: float(line["correct"])}

    def statistics(self, lines: Sequence[Line]) -> dict[str, Statistics]:
        """GenEval's overall score, the mean of the tags' means."""
        return {self.name: {"mean": summarize(lines).overall, "std": None}}


def require_right_clauses(files: Sequence[ImageFile]) -> None:
    """Raises:
    ValueError: if a clause of a row is none of GenEval's, which a verdict would stumble on or could not be fair to.
    """
    seen = set()
    for file in files:
        folder = file.path.parents[1]
        if folder in seen:
            continue
        seen.add(folder)
        for key in ("include", "exclude"):
            for number, clause in enumerate(file.metadata.get(key) or ()):
                if complaint := _complaint(clause, number):
                    raise ValueError(f"{folder / GENEVAL_METADATA}: `{key}` has {json.dumps(clause)}; {complaint}.")


def _complaint(clause: Mapping[str, Any], number: int) -> str | None:
    """What is wrong with the clause of that place."""
    count, color, position = clause["count"], clause.get("color"), clause.get("position")
    if type(count) is not int or count < 1:
        return "a `count` is a number from 1 on"
    if "color" in clause and color not in COLORS:
        return f"a `color` is one of {', '.join(COLORS)}"
    if "position" in clause and not (
        isinstance(position, list)
        and len(position) == 2
        and position[0] in RELATIONS
        and type(position[1]) is int
        and 0 <= position[1] < number
    ):
        return f"a `position` is one of {', '.join(RELATIONS)}, and the place of an earlier clause, from 0 on"
    return None


def _require_known_classes(detector: Detector, files: Sequence[ImageFile]) -> None:
    known = getattr(detector, "classes", None)
    if known is None:
        return
    clauses = [c for file in files for key in ("include", "exclude") for c in file.metadata.get(key) or ()]
    unknown = list(dict.fromkeys(clause["class"] for clause in clauses if clause["class"] not in known))
    if unknown:
        asked, there = (f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" for names in (unknown, known))
        raise ValueError(
            f"The prompts ask for {asked}, which the detector does not know; it knows {there}. Choose another one."
        )
