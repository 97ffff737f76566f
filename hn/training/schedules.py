"""What changes over training: the learning rate, and the reward's weight."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, warmup_steps: int, decay_steps: int | None) -> float:
    """Share of the learning rate at an update, counted from 0: (step + 1) / warmup_steps at first, then a cosine from
    1 to 0 at `decay_steps`, or 1 without it."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if decay_steps is None:
        return 1.0
    progress = (step - warmup_steps) / max(1, decay_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def reward_weight_at(step: int, first: float, final: float | None, decay_steps: int | None) -> float:
    """The reward's weight at an update: `first`, or from there geometrically to `final` at `decay_steps`."""
    if final is None or decay_steps is None:
        return first
    return first * (final / first) ** min(1.0, step / decay_steps)


def check_reward_weights(first: float, final: float | None, decay_steps: int | None) -> None:
    """Raises:
    ValueError: if the weight cannot change so.
    """
    if final is None:
        return
    if decay_steps is None:
        raise ValueError("final_reward_weight needs decay_steps, the update at which it is reached.")
    if first <= 0 or final <= 0:
        raise ValueError(
            f"With a final_reward_weight both weights must be positive; reward_weight is {first}, "
            f"final_reward_weight {final}."
        )
