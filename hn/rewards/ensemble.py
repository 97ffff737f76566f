"""A weighted sum of rewards, with every component in sight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hn.rewards.base import Reward


@dataclass(frozen=True)
class RewardOutput:
    """Scores of one batch.

    Attributes:
        total: [B] weighted sum, differentiable in the images.
        components: [B] unweighted score of every trained reward by name.
    """

    total: Tensor
    components: dict[str, Tensor]


class RewardEnsemble(nn.Module):
    """sum_k weight_k * reward_k, and held-out rewards that are only ever looked at.

    A reward of weight 0 is scored without gradients: it is reported with the components but costs no backward pass.

    Args:
        rewards: the trained rewards by name.
        weights: one per reward, by the same names.
        held_out: rewards for `score_held_out`, by names of their own; never part of the total.

    Raises:
        ValueError: if there are no rewards, or names are missing, unknown, taken twice or not usable.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, float],
        held_out: Mapping[str, Reward] | None = None,
    ):
        super().__init__()
        held_out = held_out or {}
        if not rewards:
            raise ValueError("A reward ensemble needs at least one reward.")
        if unknown := weights.keys() - rewards.keys():
            raise ValueError(f"Weights for unknown rewards {sorted(unknown)}; the rewards are {sorted(rewards)}.")
        if missing := rewards.keys() - weights.keys():
            raise ValueError(f"Rewards without a weight: {sorted(missing)}; give 0 to only report one.")
        if both := rewards.keys() & held_out.keys():
            raise ValueError(f"{sorted(both)} cannot be trained on and held out at once; give them different names.")
        self.rewards = _module_dict(rewards)
        self.held_out = _module_dict(held_out)
        self.weights = {name: float(weights[name]) for name in rewards}

    def forward(self, images: Tensor, prompts: Sequence[str]) -> RewardOutput:
        """Scores of images [B, 3, H, W] in [0, 1] for B prompts."""
        components = {}
        for name, reward in self.rewards.items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.weights[name] != 0):
                components[name] = reward(images, prompts)
        total = sum(self.weights[name] * score for name, score in components.items())
        return RewardOutput(total, components)

    def total(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The weighted sum [B] alone, as a test-time search takes its reward."""
        return self(images, prompts).total

    @torch.no_grad()
    def score_held_out(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Scores [B] of every held-out reward by name, without gradients."""
        return {name: reward(images, prompts) for name, reward in self.held_out.items()}


def _module_dict(rewards: Mapping[str, Reward]) -> nn.ModuleDict:
    try:
        return nn.ModuleDict(rewards)
    except (KeyError, TypeError) as error:  # a name with a dot or of a method, or a value that is no module
        raise ValueError(f"These rewards cannot be named or used so: {error}") from error
