"""The gradient of a smoothed reward from forward passes alone (score function, or evolution strategies)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hn.generators.base import Generator
from hn.generators.subspaces import Subspace
from hn.rewards.ensemble import RewardOutput
from hn.training.estimators.base import Estimator, ScoredBatch
from hn.utils.device import to_device

_TOTAL, _MEAN, _SAMPLES = "/total", "/mean", "/samples"
"""Names that no reward can have."""


class ScoreFunction(Estimator):
    """Scores K perturbed noises of every sample, without gradients:

        x_k = T - P T + sqrt(1 - s^2) P T + s P e_k,    e_k ~ N(0, I)

    P projects on a subspace of the noise, so x_k is distributed as N(0, I) where T is, and the generator sees what it
    was distilled for. The smoothed reward R(T) = E[r(g(x_k))] has the gradient

        dR / dPT = sqrt(1 - s^2) / s * E[r(g(x_k)) P e_k]

    estimated by the mean over k of (r_k - mean r) P e_k. Perturbations come in antithetic pairs e, -e, so a constant
    added to the reward cancels exactly and the estimate stays unbiased. Outside of the subspace the estimate is zero.

    Scores can serve several updates. As T moves by d = sqrt(1 - s^2) P (T - T_old), each is weighted by the ratio of
    its noise's densities, exp(e_k . d / s - |d|^2 / (2 s^2)), clipped as in PPO (arXiv 1707.06347, equation 7).

    Args:
        subspace: where to explore, for example the lowest frequencies (`LowFrequency`).
        samples: K, even.
        sigma: s, in (0, 1).
        updates_per_batch: updates in a row that use the same scores.
        ratio_clip: c; ratios count within [1 / c, c].

    Raises:
        ValueError: if a number is out of range.
    """

    is_forward_only = True

    def __init__(
        self,
        subspace: Subspace,
        samples: int = 4,
        sigma: float = 0.8,
        updates_per_batch: int = 1,
        ratio_clip: float = 2.0,
    ) -> None:
        super().__init__()
        if samples < 2 or samples % 2:
            raise ValueError(f"samples must be an even number, 2 or more (they come in pairs), not {samples}.")
        if not 0 < sigma < 1:
            raise ValueError(f"sigma must be between 0 and 1, not {sigma}.")
        if updates_per_batch < 1 or ratio_clip <= 1:
            raise ValueError(
                "updates_per_batch must be at least 1 and ratio_clip above 1; got "
                f"{updates_per_batch} and {ratio_clip}."
            )
        self.subspace, self.samples, self.sigma = subspace, samples, sigma
        self.updates_per_batch, self.ratio_clip = updates_per_batch, ratio_clip
        self._kept: dict[int, dict[str, Tensor]] = {}

    def build(self, generator: Generator) -> None:
        self.subspace.build(generator)

    def forward(self, batch: ScoredBatch) -> RewardOutput:
        directions = self.directions(batch)
        kept = self._kept.pop(batch.part, None)
        if kept is None or batch.repeat == 0 or not self._are_of(batch, kept):
            kept = self._score(batch, directions)
        if batch.repeat < self.updates_per_batch - 1:
            self._kept[batch.part] = kept
        means = {name: each.mean(1) for name, each in kept.items() if name not in (_MEAN, _SAMPLES)}
        surrogate = self.surrogate(self.subspace.coefficients(batch.modulated) - kept[_MEAN], directions, kept)
        total = means.pop(_TOTAL)
        return RewardOutput(total + (surrogate - surrogate.detach()), means)

    def surrogate(self, moved: Tensor, directions: Tensor, scores: Mapping[str, Tensor]) -> Tensor:
        """What has the estimate as its gradient, [B].

        Args:
            moved: coefficients of P (T - T_old), [B, D]; zero, but with a gradient, when the scores are new.
            directions: of the perturbations, [B, K, D].
            scores: what `_score` gave.
        """
        advantages = scores[_TOTAL] - scores[_TOTAL].mean(1, keepdim=True)
        shift = math.sqrt(1 - self.sigma**2) / self.sigma * moved
        ratio = (torch.einsum("bkd,bd->bk", directions, shift) - 0.5 * shift.square().sum(1, keepdim=True)).exp()
        clipped = ratio.clamp(1 / self.ratio_clip, self.ratio_clip)
        return torch.minimum(ratio * advantages, clipped * advantages).mean(1)

    def _are_of(self, batch: ScoredBatch, scores: Mapping[str, Tensor]) -> bool:
        """Whether scores are of this batch and these options: a run may be continued with others."""
        expected = (len(batch.prompts), self.samples), (len(batch.prompts), self.subspace.dimensions)
        fits = (scores[_TOTAL].shape, scores[_MEAN].shape) == expected
        return fits and torch.equal(scores[_SAMPLES].cpu(), _digests(batch))

    @torch.no_grad()
    def _score(self, batch: ScoredBatch, directions: Tensor) -> dict[str, Tensor]:
        """Scores [B, K] by name, the coefficients [B, D] of the mean that they are of, and what tells the samples."""
        mean = batch.modulated.detach()
        own = self.subspace.coefficients(mean)
        moves = (math.sqrt(1 - self.sigma**2) - 1) * own[:, None] + self.sigma * directions  # [B, K, D]
        noises = mean.repeat_interleave(self.samples, 0) + self.subspace.expand(moves.flatten(0, 1))
        output = batch.score(noises, self.samples)
        scores = {**output.components, _TOTAL: output.total}
        rows = {name: each.unflatten(0, (-1, self.samples)) for name, each in scores.items()}
        return {**rows, _MEAN: own, _SAMPLES: _digests(batch)}

    def directions(self, batch: ScoredBatch) -> Tensor:
        """Coefficients of the perturbations e_k, [B, K, D]: antithetic pairs of N(0, I)."""
        half = [torch.randn(self.samples // 2, self.subspace.dimensions, generator=stream) for stream in batch.streams]
        drawn = to_device(torch.stack(half), batch.modulated.device).to(batch.modulated.dtype)
        return torch.cat([drawn, -drawn], 1)

    def kept_scores(self) -> dict[int, dict[str, Tensor]]:
        return dict(self._kept)

    def keep_scores(self, parts: Mapping[int, Mapping[str, Tensor]]) -> None:
        self._kept = {part: dict(scores) for part, scores in parts.items()}


def _digests(batch: ScoredBatch) -> Tensor:
    """What tells each sample's prompt and noises, [B] int64 on the CPU, the same in every process."""
    keys = (f"{s.initial_seed()} {prompt}" for s, prompt in zip(batch.streams, batch.prompts, strict=True))
    digests = (hashlib.blake2b(key.encode(), digest_size=7).digest() for key in keys)
    return torch.tensor([int.from_bytes(digest) for digest in digests])
