"""The gradient through the generator and the rewards, as in the paper (arXiv 2508.09968)."""

from __future__ import annotations

from hn.rewards.ensemble import RewardOutput
from hn.training.estimators.base import Estimator, ScoredBatch


class Pathwise(Estimator):
    """d r(g(T)) / dT by backpropagation through rewards, decoder and generator. Needs differentiable rewards."""

    is_forward_only = False

    def forward(self, batch: ScoredBatch) -> RewardOutput:
        return batch.score(batch.modulated, 1)
