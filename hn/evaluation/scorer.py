"""Scores of images: every reward, GenEval's verdict, benchmark metrics and features for the CMMD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hn.evaluation.benchmarks.base import BenchmarkMetric
from hn.evaluation.detectors.base import Detector, geneval_verdicts
from hn.evaluation.geneval import VerdictOptions
from hn.rewards.ensemble import RewardEnsemble

_PAIRS = 16  # images compared in one call, to bound memory


class FeatureExtractor(Protocol):
    """Image features for distances between sets of images: [B, 3, H, W] in [0, 1] -> [B, D]."""

    def image_features(self, images: Tensor) -> Tensor: ...


class ImageDistance(Protocol):
    """A distance between two images: [B, 3, H, W], [B, 3, H, W] in [0, 1] -> [B]."""

    def image_distance(self, first: Tensor, second: Tensor) -> Tensor: ...


class Scorer:
    """Scores a method's images.

    Args:
        reward: the trained ensemble with its held-out members.
        detector: for GenEval's verdicts on prompts with an `include` clause; without it there are none.
        features: for the CMMD and diversity; as a rule a held-out CLIP reward. Without it there are none.
        options: thresholds of the verdict.
        benchmarks: metrics of other benchmarks, for rows of theirs.
        measures: more features, for more such distances, and distances between images, for diversity alone; by names
            of your choice.
    """

    def __init__(
        self,
        reward: RewardEnsemble,
        detector: Detector | None = None,
        features: FeatureExtractor | None = None,
        options: VerdictOptions | None = None,
        benchmarks: Sequence[BenchmarkMetric] = (),
        measures: Mapping[str, FeatureExtractor | ImageDistance] | None = None,
    ) -> None:
        self.reward, self.detector, self.features, self.benchmarks = reward, detector, features, tuple(benchmarks)
        self.options = options or VerdictOptions()
        self.extractors = {} if features is None else {"features": features}
        self.distances: dict[str, ImageDistance] = {}
        for name, measure in (measures or {}).items():
            if hasattr(measure, "image_features"):
                self.extractors[f"features/{name}"] = measure
            else:
                self.distances[f"diversity/{name}"] = measure

    @property
    def has_features(self) -> bool:
        """Whether there is anything that a distance can be measured with."""
        return bool(self.extractors)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Scores of images [B, 3, H, W] in [0, 1] for B prompts and their rows.

        Returns:
            Float32 on the CPU, [B] each: `reward` (the weighted total) and `reward/<name>`; `held_out` (the mean of the
            held-out rewards) and `held_out/<name>`, where there are any; `correct`, 1 or 0, NaN for a row that asks
            nothing, with a detector; `benchmark/<name>` of each benchmark metric's scores, NaN likewise; `features` and
            `features/<name>` [B, D], with feature extractors; `diversity/<name>`, the mean distance to the other images
            of the prompt, NaN without any. All scores of an image that is not finite are NaN, and its verdict is 0.
        """
        usable = _are_finite(images)
        images = _without_nan(images, usable)
        output, held_out = self.reward(images, prompts), self.reward.score_held_out(images, prompts)
        scores = {"reward": output.total}
        scores |= {f"reward/{name}": score for name, score in output.components.items()}
        if held_out:
            scores["held_out"] = torch.stack(list(held_out.values())).mean(dim=0)
        scores |= {f"held_out/{name}": score for name, score in held_out.items()}
        if self.detector is not None:
            scores["correct"] = torch.tensor(self.verdicts(images, metadata))
        for metric in self.benchmarks:
            scores |= {f"benchmark/{name}": score for name, score in metric(images, metadata).items()}
        for name, distance in self.distances.items():
            scores[name] = distances_within_prompts(distance, images, prompts, usable)
        scores = {name: score.detach().float().cpu() for name, score in scores.items()} | self._features(images)
        for name, score in scores.items():
            score[~usable] = torch.where(score[~usable].isnan(), torch.nan, 0.0 if name == "correct" else torch.nan)
        return scores

    @torch.no_grad()
    def image_features(self, images: Tensor) -> dict[str, Tensor]:
        """Features alone, [B, D] each, float32 on the CPU, by their names among the scores; NaN likewise."""
        usable = _are_finite(images)
        features = self._features(_without_nan(images, usable))
        for feature in features.values():
            feature[~usable] = torch.nan
        return features

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        return {name: each.image_features(images).detach().float().cpu() for name, each in self.extractors.items()}

    def verdicts(self, images: Tensor, metadata: Sequence[Mapping[str, Any]]) -> list[float]:
        """1.0 for an image that shows what its row asks for, 0.0 for one that does not, NaN if the row asks nothing."""
        if not any(row.get("include") for row in metadata):
            return [float("nan")] * len(metadata)
        verdicts = geneval_verdicts(self.detector, images, metadata, self.options)
        return [float("nan") if verdict is None else float(verdict.correct) for verdict in verdicts]


def feature_extractor_of(reward: RewardEnsemble) -> FeatureExtractor | None:
    """The first held-out reward that gives image features, for the CMMD."""
    return next((member for member in reward.held_out.values() if hasattr(member, "image_features")), None)


def _are_finite(images: Tensor) -> Tensor:
    """Which of the images [B, 3, H, W] have neither NaN nor infinite values: bool [B] on the CPU."""
    return images.isfinite().flatten(1).all(dim=1).cpu()


def _without_nan(images: Tensor, usable: Tensor) -> Tensor:
    """The images, black in the place of those that are not usable; networks may fail on NaN."""
    if usable.all():
        return images
    return torch.where(usable.to(images.device)[:, None, None, None], images, 0)


def distances_within_prompts(
    distance: ImageDistance, images: Tensor, prompts: Sequence[str], usable: Tensor | None = None
) -> Tensor:
    """Mean distance [B] of each image to the others of its prompt, NaN where there is none.

    Images [B, 3, H, W] of one prompt follow each other. A prompt's mean over its images is that over its pairs. Images
    that are not `usable`, bool [B], are left out, and are NaN.
    """
    if usable is not None and not usable.all():
        places = usable.nonzero().flatten()
        means = torch.full((len(prompts),), torch.nan)
        if len(places):
            kept = images[places.to(images.device)]
            means[places] = distances_within_prompts(distance, kept, [prompts[place] for place in places])
        return means
    means = []
    start = 0
    while start < len(prompts):
        stop = next((i for i in range(start, len(prompts)) if prompts[i] != prompts[start]), len(prompts))
        n = stop - start
        first, second = torch.triu_indices(n, n, 1) + start
        between = torch.zeros(n, n)
        for k in range(0, len(first), _PAIRS):
            i, j = first[k : k + _PAIRS], second[k : k + _PAIRS]
            between[i - start, j - start] = distance.image_distance(images[i], images[j]).float().cpu()
        means.append((between + between.T).sum(dim=1) / (n - 1))  # 0 / 0 is NaN
        start = stop
    return torch.cat(means)
