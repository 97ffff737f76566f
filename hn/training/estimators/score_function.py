"""The gradient of a smoothed reward from forward passes alone (score function, or evolution strategies)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hn.generators.base import Generator
from hn.generators.subspaces import Subspace
from hn.rewards.ensemble import RewardOutput
from hn.training.estimators.base import Estimator, ScoredBatch


class ScoreFunction(Estimator):
    """Scores K perturbed noises of every sample, without gradients:

        x_k = T - P T + sqrt(1 - s^2) P T + s P e_k,    e_k ~ N(0, I)

    P projects on a subspace of the noise, so x_k is distributed as N(0, I) where T is, and the generator sees what it
    was distilled for. The smoothed reward R(T) = E[r(g(x_k))] has the gradient

        dR / dPT = sqrt(1 - s^2) / s * E[r(g(x_k)) P e_k]

    estimated by the mean over k of (r_k - mean r) P e_k. Perturbations come in antithetic pairs e, -e, so a constant
    added to the reward cancels exactly and the estimate stays unbiased. Outside of the subspace the estimate is zero.

    Args:
        subspace: where to explore, for example the lowest frequencies (`LowFrequency`).
        samples: K, even.
        sigma: s, in (0, 1).

    Raises:
        ValueError: if a number is out of range.
    """

    is_forward_only = True

    def __init__(self, subspace: Subspace, samples: int = 4, sigma: float = 0.8) -> None:
        super().__init__()
        if samples < 2 or samples % 2:
            raise ValueError(f"samples must be an even number, 2 or more (they come in pairs), not {samples}.")
        if not 0 < sigma < 1:
            raise ValueError(f"sigma must be between 0 and 1, not {sigma}.")
        self.subspace, self.samples, self.sigma = subspace, samples, sigma

    def build(self, generator: Generator) -> None:
        self.subspace.build(generator)

    def forward(self, batch: ScoredBatch) -> RewardOutput:
        keep, spread = math.sqrt(1 - self.sigma**2), self.sigma
        mean = batch.modulated.detach()
        directions = self.directions(batch)
        with torch.no_grad():
            own = self.subspace.coefficients(mean)[:, None]
            moves = (keep - 1) * own + spread * directions  # [B, K, D]
            noises = mean.repeat_interleave(self.samples, 0) + self.subspace.expand(moves.flatten(0, 1))
            output = batch.score(noises, self.samples)
        rewards = output.total.unflatten(0, (-1, self.samples))
        advantages = rewards - rewards.mean(1, keepdim=True)
        gradient = keep / spread * torch.einsum("bk,bkd->bd", advantages, directions) / self.samples
        # The mean reward, with the estimate as its gradient.
        linear = (gradient * self.subspace.coefficients(batch.modulated)).sum(1)
        total = rewards.mean(1) + (linear - linear.detach())
        components = {name: each.unflatten(0, (-1, self.samples)).mean(1) for name, each in output.components.items()}
        return RewardOutput(total, components)

    def directions(self, batch: ScoredBatch) -> Tensor:
        """Coefficients of the perturbations e_k, [B, K, D]: antithetic pairs of N(0, I)."""
        half = [torch.randn(self.samples // 2, self.subspace.dimensions, generator=stream) for stream in batch.streams]
        drawn = torch.stack(half).to(batch.modulated)
        return torch.cat([drawn, -drawn], 1)
