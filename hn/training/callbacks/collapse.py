"""An alarm for reward hacking: the trained reward rises while what nothing is trained on falls."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L

log = logging.getLogger(__name__)


class RewardCollapse(L.Callback):
    """Warns, once, when validations show that the trained reward is bought with something else.

    A validation is a suspect one if the trained reward (`val/reward`) is above its value at the held-out reward's best
    validation, and

    - the held-out reward (`val/held_out_reward`) has lost more than `tolerance` of the way between that best and the
      farthest it was ever away from the base: of a gain that is over, a share; or
    - the distance to the base's images (`val/cmmd`) is beyond `max_cmmd`.

    The base itself, f = 0, counts as the first validation. The alarm comes after `patience` suspect validations in a
    row. `Evaluation` measures all of them; without a held-out reward, and a limit for the distance, there is nothing to
    watch.

    Args:
        tolerance: share of the held-out reward's range so far, in [0, 1), that it may be below its best.
        max_cmmd: largest CMMD to the base's images; not watched if not given. It depends on the features, so look
            at a healthy run first.
        patience: suspect validations in a row.
        stop: end the training as well; `hn train` then tests the best checkpoint.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self, tolerance: float = 0.5, max_cmmd: float | None = None, patience: int = 3, stop: bool = False
    ) -> None:
        if not 0 <= tolerance < 1 or patience < 1:
            raise ValueError(
                f"tolerance must be in [0, 1) and patience at least 1; they are {tolerance} and {patience}."
            )
        self.tolerance, self.max_cmmd, self.patience, self.stop = tolerance, max_cmmd, patience, stop
        self.best: dict[str, float] | None = None  # the validation with the best held-out reward, or the base
        self.range = 0.0
        self.in_a_row, self.warned = 0, False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "range": self.range, "in_a_row": self.in_a_row, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        names = ("reward", "held_out_reward", "cmmd", "base_reward", "base_held_out_reward")
        found = {
            name: float(trainer.callback_metrics[key])
            for name in names
            if (key := f"val/{name}") in trainer.callback_metrics
        }
        if "reward" not in found:
            return
        alarm = self.look_at(trainer.global_step, found)
        if alarm is None:
            return
        if trainer.is_global_zero:
            log.warning("%s", alarm)
        if self.stop:
            trainer.should_stop = True

    def look_at(self, step: int, scores: dict[str, float]) -> str | None:
        """Take in a validation.

        Args:
            step: the update.
            scores: `reward`, and as far as measured `held_out_reward`, `cmmd`, `base_reward`,
                `base_held_out_reward`.

        Returns:
            The alarm, if this is the validation to raise it; None otherwise.
        """
        reward, held_out = scores["reward"], scores.get("held_out_reward")
        if self.best is None or (held_out is not None and "held_out_reward" not in self.best):
            self.best = {"step": 0, "reward": scores.get("base_reward", reward)}
            if held_out is not None:
                self.best["held_out_reward"] = scores.get("base_held_out_reward", held_out)
        signs = []
        if held_out is not None:
            self.range = max(
                self.range, abs(held_out - scores.get("base_held_out_reward", self.best["held_out_reward"]))
            )
            if held_out >= self.best["held_out_reward"]:
                self.best = {"step": step, "reward": reward, "held_out_reward": held_out}
            elif self.best["held_out_reward"] - held_out > self.tolerance * self.range:
                signs.append(f"the held-out reward fell from {self.best['held_out_reward']:.4g} to {held_out:.4g}")
        if self.max_cmmd is not None and scores.get("cmmd", 0.0) > self.max_cmmd:
            signs.append(f"the distance to the base's images is {scores['cmmd']:.3g} (limit {self.max_cmmd:.3g})")
        is_suspect = signs and reward > self.best["reward"]
        self.in_a_row = self.in_a_row + 1 if is_suspect else 0
        if self.in_a_row < self.patience or self.warned:
            return None
        self.warned = True
        since = f"update {self.best['step']}" if self.best["step"] else "the base"
        return (
            f"Update {step}: this looks like reward hacking. Since {since} the trained reward rose from "
            f"{self.best['reward']:.4g} to {reward:.4g}, but {' and '.join(signs)} ({self.patience} validations in a "
            f"row). Look at the images{'' if held_out is None else f'; {since} was the best one'}. A smaller "
            "--model.reward_weight or learning rate, or rewards with other blind spots, keep closer to the generator "
            "(docs/runs.md)."
        )
