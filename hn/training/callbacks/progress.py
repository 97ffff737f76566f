"""How far a run is: updates done, reward, regulariser and images per second, and a line for each validation."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from hn.data.prompts import PromptBatch
from hn.utils.text import printable


class StepProgressBar(ProgressBar):
    """One bar over all updates of a run, with reward, regulariser, what else the module logs for it (`prog_bar`) and
    training images per second (of all devices), and a line with the scores after each validation.

    A bar needs a terminal. Elsewhere, in a log file or a pipe, a line is written every `line_every` updates.
    Everything goes to the standard error stream.

    Args:
        refresh_every: updates between refreshes of the bar; metrics are read off the device only then.
        line_every: updates between lines where there is no terminal.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(self, refresh_every: int = 5, line_every: int = 50) -> None:
        super().__init__()
        if refresh_every < 1 or line_every < 1:
            raise ValueError(f"refresh_every ({refresh_every}) and line_every ({line_every}) must be at least 1.")
        self.refresh_every, self.line_every = refresh_every, line_every
        self._enabled = True
        self._training: Any = None  # a bar, while it is shown
        self._evaluating: Any = None
        self._images, self._since = 0, 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """A line above the bars."""
        if self._enabled:
            tqdm.write(printable(sep.join(map(str, args))), file=sys.stderr)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        updates = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        self._training = self._bar("training", None if updates in (-1, float("inf")) else int(updates), leave=True)
        self._training.initial = self._training.n = trainer.global_step
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        self._images += len(batch["prompt"]) * trainer.world_size
        every = self.line_every if self._training.disable else self.refresh_every
        step = trainer.global_step
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if accumulating or (step % every and step != self._training.total):
            return
        metrics = {name: _shown(value) for name, value in self.get_metrics(trainer, pl_module).items()}
        if self._training.disable:
            self.print(f"step {step}/{self._training.total or '?'}: {_joined(metrics)}")
        else:
            self._training.n = step
            self._training.set_postfix_str(_joined(metrics))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._training.close()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What the module logs for the bar, reward and regulariser, and images per second since the last time."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)  # the logger's version; a run is known by its directory
        logged = trainer.callback_metrics
        metrics |= {
            name: float(logged[key]) for name in ("reward", "regulariser") if (key := f"train/{name}") in logged
        }
        now = time.perf_counter()
        metrics["images/s"] = round(self._images / (now - self._since))
        self._images, self._since = 0, now
        return metrics

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluating = self._bar("validation", _total(trainer.num_val_batches))

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._evaluating.update()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluating.close()
        if not trainer.sanity_checking:
            place = f"step {trainer.global_step}, " if trainer.state.fn == "fit" else ""
            self.print(f"{place}validation: {_joined(_with_base(trainer.callback_metrics, 'val/'))}")
        self._images, self._since = 0, time.perf_counter()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluating = self._bar("test", _total(trainer.num_test_batches))

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._evaluating.update()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluating.close()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluating = self._bar("prediction", _total(trainer.num_predict_batches))

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._evaluating.update()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluating.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        for bar in (self._evaluating, self._training):
            if bar is not None:
                bar.close()

    def _bar(self, name: str, total: int | None, leave: bool = False) -> tqdm:
        # disable=None: tqdm shows nothing where there is no terminal
        disable = None if self._enabled else True
        return tqdm(desc=name, total=total, leave=leave, disable=disable, dynamic_ncols=True, file=sys.stderr)


def _total(batches: list[int | float]) -> int | None:
    total = sum(batches)
    return None if total == float("inf") else int(total)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _joined(metrics: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in metrics.items())


def _with_base(metrics: dict[str, Any], prefix: str) -> dict[str, str]:
    """The scores that tell how a run goes, the generator's own in brackets."""
    scores = {}
    for name in ("reward", "held_out_reward", "geneval"):
        if prefix + name in metrics:
            base = metrics.get(f"{prefix}base_{name}", float("nan"))
            scores[name] = f"{float(metrics[prefix + name]):.3f} (base {float(base):.3f})"
    if prefix + "kl_nats" in metrics:
        scores["kl_nats"] = f"{float(metrics[prefix + 'kl_nats']):.3g}"
    return scores
