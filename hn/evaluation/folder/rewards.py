"""Rewards of images on disk, and `scores.json` and `scores.csv` of all metrics together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hn.evaluation.folder.images import ImageFile
from hn.evaluation.folder.score import (
    BatchScorer,
    FolderMetric,
    Line,
    Results,
    Statistics,
    by_method,
    files_by_name,
    line_of,
)
from hn.rewards.base import Reward, check_scores
from hn.utils.environment import environment
from hn.utils.files import write_csv, write_json

MethodStatistics = dict[str, dict[str, Statistics]]
"""By method, and of all images under "all": the statistics of each score."""


class RewardScores(FolderMetric[MethodStatistics]):
    """Scores of a reward; None where one is not finite.

    Args:
        name: of the reward.
        reward_class: its class.
        section: its class path and arguments.
        make_reward: loads it.
    """

    def __init__(
        self, name: str, reward_class: type[Reward], section: Mapping[str, Any], make_reward: Callable[[], Reward]
    ) -> None:
        super().__init__(name, {"reward": section})
        self.reward_class, self.make_reward = reward_class, make_reward

    def load(self, files: Sequence[ImageFile], device: torch.device | str) -> BatchScorer:
        reward = self.make_reward().to(device)

        @torch.inference_mode()
        def score_batch(names: Sequence[str], images: Tensor, rows: Sequence[Mapping[str, Any]]) -> list[Line]:
            scores = check_scores(reward(images, [row["prompt"] or "" for row in rows]), reward, len(rows))
            finite = ({self.name: score if math.isfinite(score) else None} for score in scores.tolist())
            return [line_of(name, row, score, {}) for name, row, score in zip(names, rows, finite, strict=True)]

        return score_batch

    def summarize(self, lines: Sequence[Line], files: Mapping[str, ImageFile]) -> MethodStatistics:
        return summarize_methods({self: lines}, files)


def require_prompts(files: Sequence[ImageFile], rewards: Sequence[RewardScores]) -> None:
    """Raises:
    ValueError: if an image has no prompt, and a reward reads it.
    """
    readers = [reward.name for reward in rewards if reward.reward_class.reads_prompts]
    if readers and any(file.prompt is None for file in files):
        raise ValueError(
            f"{', '.join(readers)} {'read' if len(readers) > 1 else 'reads'} prompts, and {files[0].path.parent} has "
            "none: give a file of them with --prompts."
        )


def summarize_methods(lines: Mapping[FolderMetric, Sequence[Line]], files: Mapping[str, ImageFile]) -> MethodStatistics:
    """Statistics of all metrics' scores, of all images and of each method where something says what made an image."""
    summary: MethodStatistics = {"all": {}}
    for metric, of_metric in lines.items():
        for method, made in {"all": of_metric, **by_method(of_metric, files)}.items():
            if method is not None:
                summary.setdefault(method, {}).update(metric.statistics(made))
    return summary


def write_scores(
    results: Mapping[FolderMetric, Results],
    files: Sequence[ImageFile],
    folder: Path,
    directory: Path,
    facts: Mapping[str, Any],
) -> tuple[MethodStatistics, list[dict[str, Any]]]:
    """Write `scores.json` and `scores.csv`: the scores that any of the metrics gave to each image.

    Args:
        results: of each metric, without missing ones.
        files: all images.
        folder: that files are named relative to.
        directory: where to.
        facts: more entries of `scores.json`.

    Returns:
        The summary, and a row for each image that one of the metrics scored.
    """
    by_name = files_by_name(files, folder)
    found: dict[str, dict[str, float | None]] = {}
    for metric, result in results.items():
        for name, line in result.lines.items():
            found.setdefault(name, {}).update(metric.values(line))
    names = list(dict.fromkeys(score for scores in found.values() for score in scores))
    rows = [
        {"file": name, "prompt": file.prompt}
        | ({} if file.method is None else {"method": file.method})
        | {"scores": {score: found[name].get(score) for score in names}}
        for name, file in by_name.items()
        if name in found
    ]
    summary = summarize_methods({metric: [*result.lines.values()] for metric, result in results.items()}, by_name)
    content = {
        "environment": environment(),
        **facts,
        "rewards": {each.name: each.settings["reward"] for each in results if isinstance(each, RewardScores)},
        "benchmarks": {each.name: each.settings for each in results if not isinstance(each, RewardScores)},
        "images": len(rows),
        "summary": summary,
        "scores": rows,
    }
    write_json(directory / "scores.json", content, durable=True)
    columns = [name for name in ("file", "prompt", "method") if any(name in row for row in rows)]
    write_csv(directory / "scores.csv", [{name: row.get(name) for name in columns} | row["scores"] for row in rows])
    return summary, rows
