"""What every estimator of the reward's gradient offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hn.generators.base import Generator
from hn.rewards.ensemble import RewardOutput

Score = Callable[[Tensor, int], RewardOutput]
"""(noise [B * K, *noise_shape], K) -> scores [B * K] of their images; K in a row are of the same prompt."""


@dataclass(frozen=True)
class ScoredBatch:
    """A batch whose reward an estimator is asked for.

    Attributes:
        modulated: [B, *noise_shape], T(x0) = x0 + f(x0), differentiable in f's parameters.
        score: generates images of noise and scores them, with gradients where gradients are switched on.
        streams: B sources of randomness, one for each sample, keyed by seed, update and the sample's number in it.
        prompts: B prompts.
        part: number of the batch among those that an update accumulates.
        repeat: how many updates have used this batch before.
    """

    modulated: Tensor
    score: Score
    streams: Sequence[torch.Generator]
    prompts: Sequence[str]
    part: int = 0
    repeat: int = 0


class Estimator(nn.Module, ABC):
    """Estimates the gradient of E[r(g(T(x0)))] with respect to T(x0); from there to f's parameters it is exact.

    Attributes:
        is_forward_only: whether the generator and the rewards run without gradients, so that memory is that of
            inference and any reward serves.
        samples: K, images that are scored for each sample of the batch.
        updates_per_batch: updates in a row that use the same prompts, noises and scores.
    """

    is_forward_only: bool
    samples: int = 1
    updates_per_batch: int = 1

    def build(self, generator: Generator) -> None:
        """Bind the estimator to the generator's noise; called once, before training.

        Raises:
            ValueError: if its options do not fit the generator.
        """

    def kept_scores(self) -> dict[int, dict[str, Tensor]]:
        """What updates of the same batch still need, tensors [B, ...] by name for each of its parts."""
        return {}

    def keep_scores(self, parts: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take what `kept_scores` gave, of a run that is continued."""

    @abstractmethod
    def forward(self, batch: ScoredBatch) -> RewardOutput:
        """Scores [B] of a batch. The total's gradient with respect to `batch.modulated` is the estimate."""
