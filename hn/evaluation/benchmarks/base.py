"""What a benchmark metric is: scores of images for the rows of their prompts."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hn.utils.hub import Repository, repositories_in

Row = Mapping[str, Any]
"""The row of a prompt: `prompt`, and what else its set has."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Scores of one image.

    Attributes:
        scores: by name, higher is better.
        details: what led to them, as JSON has it.
    """

    scores: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoreGroup:
    """Means of scores over `n` images, or atoms, or whatever the group's name says."""

    name: str
    n: int
    scores: dict[str, float]


class BenchmarkMetric(nn.Module, ABC):
    """A published benchmark's scores of images for the rows of their prompts, with frozen weights and no gradients.

    Attributes:
        needs: what a row has to have so that `asks` is true, for the error.
        score_names: of the scores that every image gets.
    """

    needs: ClassVar[str]
    score_names: ClassVar[tuple[str, ...]]

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        """What an instance takes from the Hugging Face Hub; `arguments` are those of `__init__`, defaults included."""
        return repositories_in(arguments)

    @classmethod
    @abstractmethod
    def asks(cls, row: Row) -> bool:
        """Whether a row asks something that this metric can score."""

    @classmethod
    def check_rows(cls, rows: Sequence[Row], arguments: Mapping[str, Any]) -> None:
        """Look at all rows that `asks` before weights are loaded.

        Args:
            rows: of the prompts.
            arguments: those of `__init__`, defaults included.

        Raises:
            ValueError: if a row is not as it has to be.
            ImportError: if a package is missing that they need; says how to get it.
        """

    @abstractmethod
    def score(self, images: Tensor, rows: Sequence[Row]) -> list[ImageScores]:
        """Scores of images [B, 3, H, W] in [0, 1] for B rows, all of which `asks`.

        Raises:
            ValueError: if a row is not as it has to be.
        """

    @torch.no_grad()
    def forward(self, images: Tensor, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Scores [B] by name, float32 on the CPU: NaN for an image whose row asks nothing.

        Args:
            images: [B, 3, H, W] in [0, 1].
            rows: of their prompts.

        Raises:
            ValueError: as `score`.
        """
        asking = [place for place, row in enumerate(rows) if self.asks(row)]
        found = self.score(images[asking], [rows[place] for place in asking]) if asking else []
        scores = {name: torch.full((len(rows),), torch.nan) for name in self.score_names}
        for place, of_image in zip(asking, found, strict=True):
            for name, score in of_image.scores.items():
                scores[name][place] = score
        return scores

    @classmethod
    def summarize(cls, results: Sequence[Row]) -> list[ScoreGroup]:
        """Means over all images and, where there are several prompt sets, those of each.

        Args:
            results: lines of the results file: `scores`, `details`, and the prompt's row as JSON under `metadata`.
        """
        by_set: dict[str, list[Row]] = {}
        for result in results:
            if SET in (row := json.loads(result["metadata"])):
                by_set.setdefault(row[SET], []).append(result)
        several = by_set if len(by_set) > 1 else {}
        return [mean_scores("all images", results), *(mean_scores(name, of_set) for name, of_set in several.items())]

    def train(self, mode: bool = True) -> Self:
        """Keeps eval mode, whatever `mode` says."""
        return super().train(False)


def mean_scores(name: str, results: Sequence[Row]) -> ScoreGroup:
    """The plain means of all scores of results, one of them at least."""
    scores = {key: fmean(result["scores"][key] for result in results) for key in results[0]["scores"]}
    return ScoreGroup(name, len(results), scores)


SET = "set"
"""Entry of a row that names the prompt set it is of."""
