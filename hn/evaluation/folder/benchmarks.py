"""GenEval's verdicts and benchmark scores of images on disk: what `hn.evaluation.folder.score.judge_files` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from hn.evaluation.benchmarks.base import Judge, ScoreGroup
from hn.evaluation.benchmarks.geneval_results import FIELDS as GENEVAL_FIELDS
from hn.evaluation.benchmarks.geneval_results import GenevalSummary, result_row, summarize
from hn.evaluation.detectors.base import Detector, judge
from hn.evaluation.folder.images import GENEVAL_METADATA, ImageFile
from hn.evaluation.folder.score import Judging, Line
from hn.evaluation.geneval import COLORS, RELATIONS, VerdictOptions
from hn.report.tables import geneval_table, judge_table

FIELDS = ("filename", "prompt", "scores", "details", "metadata")


class JudgeScores(Judging[list[ScoreGroup]]):
    """Scores of any `Judge`, for images with rows that it `asks`; `metadata` is JSON inside JSON, as in GenEval's.

    Args:
        judge_class: of the judge.
        make_judge: loads it.
    """

    name = "judge"
    fields = FIELDS
    depends_on = ("judge",)

    def __init__(self, judge_class: type[Judge], make_judge: Callable[[], Judge]) -> None:
        self.judge_class, self.make_judge = judge_class, make_judge
        self.network: Judge | None = None

    def load(self, files: Sequence[ImageFile], device: torch.device | str) -> None:
        self.network = self.make_judge().to(device)

    def lines(self, names: Sequence[str], images: Tensor, rows: Sequence[Mapping[str, Any]]) -> list[Line]:
        return [
            {"filename": name, "prompt": row["prompt"], **asdict(judgement), "metadata": json.dumps(row)}
            for name, row, judgement in zip(names, rows, self.network.judge(images, rows), strict=True)
        ]

    def summarize(self, lines: Sequence[Line], files: Mapping[str, ImageFile]) -> list[ScoreGroup]:
        """The judge's means, of each method where several made the images."""
        by_method: dict[str | None, list[Line]] = {}
        for line in lines:
            by_method.setdefault(files[line["filename"]].method, []).append(line)
        if len(by_method) == 1:
            return self.judge_class.summarize(lines)
        return [
            replace(group, name=f"{method}: {group.name}")
            for method, made in by_method.items()
            for group in self.judge_class.summarize(made)
        ]

    def as_json(self, summary: list[ScoreGroup]) -> list[dict[str, Any]]:
        return [asdict(group) for group in summary]

    def table(self, summary: list[ScoreGroup]) -> str:
        return judge_table(summary)


class GenevalVerdicts(Judging[GenevalSummary]):
    """GenEval's verdicts, in the official format.

    Args:
        make_detector: loads the detector.
        options: thresholds; the official ones by default.
    """

    name = "geneval"
    fields = GENEVAL_FIELDS
    depends_on = ("detector", "options")

    def __init__(self, make_detector: Callable[[], Detector], options: VerdictOptions | None = None) -> None:
        self.make_detector, self.options = make_detector, options
        self.detector: Detector | None = None

    def load(self, files: Sequence[ImageFile], device: torch.device | str) -> None:
        """Load the detector.

        Raises:
            ValueError: if a prompt names a class that it does not know.
        """
        self.detector = self.make_detector()
        _require_known_classes(self.detector, files)
        if hasattr(self.detector, "to"):
            self.detector.to(device)

    def lines(self, names: Sequence[str], images: Tensor, rows: Sequence[Mapping[str, Any]]) -> list[Line]:
        verdicts = judge(self.detector, images, rows, self.options)
        return [result_row(*of_one) for of_one in zip(names, rows, verdicts, strict=True)]

    def summarize(self, lines: Sequence[Line], files: Mapping[str, ImageFile]) -> GenevalSummary:
        return summarize(lines)

    def as_json(self, summary: GenevalSummary) -> dict[str, Any]:
        return asdict(summary)

    def table(self, summary: GenevalSummary) -> str:
        return geneval_table(summary)


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
