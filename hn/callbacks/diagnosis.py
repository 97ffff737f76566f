"""What of an update was not finite, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from hn.wording import some_of


def diagnose(
    terms: Iterable[Mapping[str, float]],
    bad_gradients: Sequence[str],
    bad_weights: Sequence[str],
    n_parameters: int,
) -> tuple[str, str]:
    """What was not finite first, in a sentence, and what to try.

    Args:
        terms: of each batch of the update: `loss`, `regulariser`, `reward_<name>` and others.
        bad_gradients: names of the trained parameters whose gradients are not finite, in the model's order.
        bad_weights: names of those that are not finite themselves.
        n_parameters: number of trained parameters.
    """
    bad_terms: dict[str, float] = {}
    for batch in terms:
        for name, value in batch.items():
            if not math.isfinite(value):
                bad_terms.setdefault(name, value)
    found = []
    if bad_weights:
        found.append(f"the weights themselves are not finite ({some_of(bad_weights)})")
    rewards = {name: value for name, value in bad_terms.items() if name.startswith("reward_")}
    # The parts of a sum say more than the sum.
    parts = rewards | {name: bad_terms[name] for name in ("regulariser",) if name in bad_terms} or bad_terms
    if parts:
        found.append(", ".join(f"{name} is {value}" for name, value in parts.items()))
    if bad_gradients:
        share = f"{len(bad_gradients)} of {n_parameters} parameters"
        after = "the gradient" if found else "the loss is finite, but its gradient"
        found.append(f"{after} is not finite for {share}, first {bad_gradients[0]}")
    return f"{'; '.join(found) or 'nothing on this process'}.", "\n".join(_advice(bad_weights, rewards, bad_terms))


def _advice(bad_weights: Sequence[str], rewards: Mapping[str, float], terms: Mapping[str, float]) -> list[str]:
    if bad_weights:
        return [
            "Try: continue from an earlier checkpoint (--ckpt_path best), or start anew with a lower learning rate."
        ]
    advice = ["Try: a lower learning rate (--model.optimizer.init_args.lr) or a longer --model.warmup_steps;"]
    advice.append("  gradient clipping (--trainer.gradient_clip_val 1.0), if it is not set;")
    if rewards and "regulariser" not in terms:
        name = next(iter(rewards)).removeprefix("reward_")
        advice.append(f"  the run without the reward {name} (--model.reward.init_args.weights.{name} 0);")
    elif "regulariser" in terms:
        advice.append("  a smaller --model.reward_weight: f has grown without bounds;")
    advice.append("  float32 (--trainer.precision 32-true, and float32 as the dtype of generator and rewards);")
    advice.append("  --trainer.detect_anomaly true, which is slow and names the operation.")
    return advice
