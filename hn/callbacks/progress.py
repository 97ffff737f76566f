"""The progress bar: reward, regulariser and images per second."""

from __future__ import annotations

import time

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar


class ThroughputProgressBar(TQDMProgressBar):
    """Lightning's bar with training images per second over all devices, since the last refresh.

    Args:
        refresh_rate: batches between refreshes; reading metrics off the device happens only then.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._images, self._since = 0, time.perf_counter()
        self._rate = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._images += len(batch["prompt"]) * trainer.world_size
        if (batch_idx + 1) % self.refresh_rate == 0:
            now = time.perf_counter()
            self._rate, self._images, self._since = self._images / (now - self._since), 0, now
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module) -> None:
        super().on_validation_end(trainer, pl_module)
        self._images, self._since = 0, time.perf_counter()

    def get_metrics(self, trainer: L.Trainer, pl_module) -> dict:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {**metrics, "images/s": f"{self._rate:.0f}"} if trainer.training else metrics
