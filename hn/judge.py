"""A judge's scores of images on disk: what `hn.judging.judge_files` writes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from hn.data.images import ImageFile
from hn.evaluation.judges import Judge, ScoreGroup
from hn.judged_lines import Line
from hn.judging import Judging
from hn.report.judge import judge_table

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
