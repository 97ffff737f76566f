"""The checkpoint that an interrupted run continues from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from hn.training.callbacks.stopping import AGREED, StoppedBySignal
from hn.training.checkpoints import follow_best_checkpoints, keep_also
from hn.training.run_directory import CHECKPOINTS

log = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run's directory: every so many updates, after each validation, at the last
    update, and when training is interrupted or fails.

    A run that continues from it, wherever it was stopped, trains the same weights as one that was not stopped: what the
    batch or the validation under way had done is taken back, and done again (the validation after the last update,
    too), and so are the batches of an update that is not finished (with `accumulate_grad_batches`), in other callbacks'
    checkpoints as well. (Lightning's own `ModelCheckpoint(save_last=True)` writes only where it found a new best.
    Resuming from a checkpoint that was written in the middle of a batch, Lightning counts that batch twice; in the
    middle of a validation, it does only the rest of it.) Place this callback after those whose state it must hold, like
    `ModelCheckpoint`.

    The file is replaced in one step, so a run that is killed while it writes keeps the one before; the one before it
    stays as `checkpoints/previous.ckpt`.

    Args:
        every_n_steps: updates between two checkpoints, and the most that a run that is killed has to do again.

    Raises:
        ValueError: if `every_n_steps` is below 1.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, not {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self._saved_step = 0
        self._in_training = False
        self._was_interrupted = False
        self._is_updating = False
        self._validation_is_next = False
        self._max_steps: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_step, self._in_training = trainer.global_step, True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        count_running_epoch(trainer)
        # Not at the end of the batch before: a validation may come after that, which would be lost.
        self._is_updating = False
        self._save_if_due(trainer)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._is_updating = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not in on_train_end: by then Lightning has closed the epoch, and would begin the next one.
        self._is_updating = False
        if trainer.global_step > self._saved_step and is_last_update(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None
        if self._in_training:
            self._validation_is_next = True
            if is_last_update(trainer):  # what was written after the update does not say that this is missing
                self._save(trainer)
            self._save_if_due(trainer)  # it may take a while
            self._validation_is_next = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._in_training:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._in_training = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        path = last_checkpoint(trainer)
        run = f"--run.name {path.parent.parent.name} --ckpt_path last continues from {path}"
        step, reason = trainer.global_step, getattr(exception, "reason", "Stopped")
        say = log.warning if trainer.is_global_zero or not isinstance(exception, AGREED) else log.debug
        if self._in_training:
            self._in_training, self._was_interrupted = False, True
            if self._can_save(trainer, exception):
                self._save(trainer)
                say("%s after update %d: %s.", reason, step, run)
            elif path.exists():
                say("%s amid update %d: %s, update %d.", reason, step, run, self._saved_step)
            else:
                say("%s amid update %d, before there was a checkpoint.", reason, step)
        elif isinstance(exception, StoppedBySignal):
            say("%s when training was done, after update %d: %s.", reason, step, run)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        fit_loop = checkpoint["loops"]["fit_loop"]
        training, accumulated = fit_loop["epoch_loop.batch_progress"], trainer.accumulate_grad_batches
        # A validation after a batch that is taken back comes again with that batch.
        comes_again = take_back_batches(training, accumulated, trainer.is_last_batch)
        is_under_way = self._was_interrupted or self._validation_is_next
        is_under_way = is_under_way and trainer.validating and not comes_again
        settle_validation(fit_loop["epoch_loop.val_loop.batch_progress"], is_under_way)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for callback in trainer.callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state is not None:
                follow_best_checkpoints(callback, state, trainer.is_global_zero)
        if checkpoint["global_step"] == trainer.max_steps and lacks_validation(checkpoint, trainer):
            # Lightning would end at once. Allowed one more update, it does the validation first, and stops there.
            self._max_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps += 1

    def _can_save(self, trainer: L.Trainer, exception: BaseException) -> bool:
        """Whether the weights are those of a number of whole updates, and all processes come here."""
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        is_half_updated = self._is_updating and progress.processed < progress.ready
        return not is_half_updated and (trainer.world_size == 1 or isinstance(exception, AGREED))

    def _save_if_due(self, trainer: L.Trainer) -> None:
        if trainer.global_step - self._saved_step >= self.every_n_steps:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if not trainer.fast_dev_run:
            path = last_checkpoint(trainer)
            if trainer.is_global_zero and path.is_file():  # sharded ones are folders
                keep_also(path, path.with_name("previous.ckpt"))
            trainer.save_checkpoint(path)
            self._saved_step = trainer.global_step


def count_running_epoch(trainer: L.Trainer) -> None:
    """Have the trainer count the epoch that is under way as begun.

    Resuming from a checkpoint of an epoch's last batch, Lightning (2.6) ends that epoch and begins the next one without
    counting it; from a checkpoint of that one it would begin at another place.
    """
    progress = trainer.fit_loop.epoch_progress
    if progress.current.ready == progress.current.processed:
        progress.increment_ready()
        progress.increment_started()


def last_checkpoint(trainer: L.Trainer) -> Path:
    """Where a run keeps its last checkpoint."""
    return Path(trainer.default_root_dir) / CHECKPOINTS / "last.ckpt"


def take_back_batches(progress: dict[str, Any], accumulated: int, is_last_batch: bool) -> bool:
    """Set the training progress in a checkpoint back to the last finished update: gradients are not kept.

    Args:
        progress: the state of Lightning's batch progress, changed in place.
        accumulated: batches whose gradients make one update, counted from the beginning of the epoch.
        is_last_batch: whether the batch is the epoch's last one, which Lightning always ends an update with.

    Returns:
        Whether there was anything to take back.
    """
    current, total = progress["current"], progress["total"]
    is_under_way = current["processed"] < current["ready"]
    lost = 0 if is_last_batch and not is_under_way else current["processed"] % accumulated
    if not is_under_way and lost == 0:
        return False
    for counts in (current, total):
        counts |= dict.fromkeys(counts, counts["processed"] - lost)
    progress["is_last_batch"] = False
    return True


def settle_validation(progress: dict[str, Any], is_under_way: bool) -> None:
    """Have a run that continues do a validation that is under way anew, and no other.

    Lightning knows such a validation by a batch that was started and not processed.

    Args:
        progress: the state of Lightning's batch progress of validations, changed in place.
        is_under_way: whether a validation is.
    """
    started = int(is_under_way)
    for counts in (progress["current"], progress["total"]):
        finished = 0 if is_under_way else counts["completed"]
        counts |= {"ready": finished + started, "started": finished + started}
        counts |= {"processed": finished, "completed": finished}


def lacks_validation(checkpoint: dict[str, Any], trainer: L.Trainer) -> bool:
    """Whether a checkpoint was written in, or before, a validation that the trainer would do after the last batch."""
    loops, interval = checkpoint.get("loops", {}).get("fit_loop"), trainer.val_check_interval
    if not loops:  # not written by a training of hn
        return False
    validation = loops["epoch_loop.val_loop.batch_progress"]["current"]
    counts_batches = trainer.check_val_every_n_epoch is None and isinstance(interval, int)
    is_due = counts_batches and loops["epoch_loop.batch_progress"]["total"]["ready"] % interval == 0
    return is_due and trainer.limit_val_batches != 0 and validation["ready"] > validation["processed"]


def is_last_update(trainer: L.Trainer) -> bool:
    """Whether the training ends with the update that was just done, as far as is known."""
    epochs_done = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    return trainer.should_stop or trainer.global_step == trainer.max_steps or epochs_done
