"""Signals end a batch first, and then the run."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
import torch

from hn.training.callbacks.stopping import StoppedBySignal

_ALWAYS = (signal.SIGINT, signal.SIGTERM)
# A closed terminal, and what schedulers send before they end a job. Who starts a process may have it ignore these.
_UNLESS_IGNORED = (signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR2)
_STOP = (*_ALWAYS, *_UNLESS_IGNORED)
_FIRST = b"\nCtrl-C: finishing the batch, then stopping with a checkpoint; press Ctrl-C again to stop at once.\n"


class StopOnSignal(L.Callback):
    """SIGINT (Ctrl-C), SIGTERM, SIGHUP (a closed terminal), SIGXCPU and SIGUSR2 stop a training after the batch under
    way, in validations too.

    `LastCheckpoint` then writes a checkpoint, and the process ends with status 128 and the signal's number, like 130 or
    143. SIGHUP under `nohup`, and others that the process ignores, stay ignored. Lightning by itself breaks
    off at SIGINT wherever the batch is, possibly with half the weights updated, and ends with status 1 or, at SIGTERM,
    0. A second Ctrl-C stops at once, with the checkpoint that is there.

    What Lightning does at the signal before the end of a SLURM job (SIGUSR1, or the one of its `SLURMEnvironment`),
    writing a checkpoint and putting the job into the queue again, waits for the end of the batch likewise.

    With several processes it is enough that one of them gets the signal.
    """

    def __init__(self) -> None:
        self._training, self._received = False, 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._training, self._received = True, 0
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            heeded = {signum for signum in _UNLESS_IGNORED if signal.getsignal(signum) != signal.SIG_IGN}
            ours = {*_ALWAYS} | heeded | _handled_by_lightning()
            self._handlers = {signum: signal.signal(signum, self._note) for signum in ours}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not at the end of the batch before, which a validation may belong to.
        self._act(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._act(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self._act(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._act(trainer)
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(2, _FIRST)  # a handler must not use a buffer that may be in use
        if self._received not in _STOP:  # which outweigh the queue
            self._received = int(signum)

    def _act(self, trainer: L.Trainer) -> None:
        if not self._training:
            return
        signum = self._received
        if trainer.world_size > 1:  # Lightning itself asks all processes at each batch
            shared = torch.tensor(signum, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
            signum = int(shared)
        if signum == 0:
            return
        self._received = 0
        if signum in _STOP:
            raise StoppedBySignal(signum)
        self._handlers[signum](signum, None)
        self._act(trainer)  # SLURM may end the job at once

    def _restore(self) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._training, self._handlers = False, {}


def _handled_by_lightning() -> set[int]:
    """Signals that Lightning has put handlers of its own for: on SLURM the one before the end of a job, too."""
    signals = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    return {signum for signum in signals if type(signal.getsignal(signum)).__module__.startswith("lightning.")}
