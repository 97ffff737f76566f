"""Scores of images: every reward, GenEval's verdict, other judges' scores and features for the fidelity distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hn.evaluation.detectors.base import Detector, judge
from hn.evaluation.geneval import VerdictOptions
from hn.evaluation.judges import Judge
from hn.rewards.ensemble import RewardEnsemble


class FeatureExtractor(Protocol):
    """Image features of a distance between sets of images: [B, 3, H, W] in [0, 1] -> [B, D]."""

    def image_features(self, images: Tensor) -> Tensor: ...


class Scorer:
    """What a method's images are judged by.

    Args:
        reward: the trained ensemble with its held-out members.
        detector: judges GenEval-style prompts (those with an `include` clause); without it there are no verdicts.
        features: for the fidelity distance; as a rule a held-out CLIP reward. Without it there is none.
        options: thresholds of the verdict.
        judges: other benchmarks' metrics on rows of theirs.
    """

    def __init__(
        self,
        reward: RewardEnsemble,
        detector: Detector | None = None,
        features: FeatureExtractor | None = None,
        options: VerdictOptions | None = None,
        judges: Sequence[Judge] = (),
    ) -> None:
        self.reward, self.detector, self.features, self.judges = reward, detector, features, tuple(judges)
        self.options = options or VerdictOptions()

    @torch.no_grad()
    def __call__(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Scores of images [B, 3, H, W] in [0, 1] for B prompts and their rows.

        Returns:
            Float32 on the CPU, [B] each: `reward` (the weighted total) and `reward/<name>`; `held_out` (the mean of the
            held-out rewards) and `held_out/<name>`, where there are any; `correct`, 1 or 0, NaN for a row that asks
            nothing, with a detector; `judge/<name>` of each judge's scores, NaN likewise; `features` [B, D], with a
            feature extractor.
        """
        output, held_out = self.reward(images, prompts), self.reward.score_held_out(images, prompts)
        scores = {"reward": output.total}
        scores |= {f"reward/{name}": score for name, score in output.components.items()}
        if held_out:
            scores["held_out"] = torch.stack(list(held_out.values())).mean(dim=0)
        scores |= {f"held_out/{name}": score for name, score in held_out.items()}
        if self.detector is not None:
            scores["correct"] = torch.tensor(self.verdicts(images, metadata))
        for metric in self.judges:
            scores |= {f"judge/{name}": score for name, score in metric(images, metadata).items()}
        if self.features is not None:
            scores["features"] = self.features.image_features(images)
        return {name: score.detach().float().cpu() for name, score in scores.items()}

    def verdicts(self, images: Tensor, metadata: Sequence[Mapping[str, Any]]) -> list[float]:
        """1.0 for an image that shows what its row asks for, 0.0 for one that does not, NaN if the row asks nothing."""
        verdicts = judge(self.detector, images, metadata, self.options)
        return [float("nan") if verdict is None else float(verdict.correct) for verdict in verdicts]


def feature_extractor_of(reward: RewardEnsemble) -> nn.Module | None:
    """The first held-out reward that gives image features, for the fidelity distance."""
    return next((member for member in reward.held_out.values() if hasattr(member, "image_features")), None)
