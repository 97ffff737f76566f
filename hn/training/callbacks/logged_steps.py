"""The updates at which loggers place metrics, also in a run that is continued."""

from __future__ import annotations

from typing import Any

import lightning as L

from hn.utils.private.lightning import set_logged_step


class LoggedSteps(L.Callback):
    """Has metrics of batches and of the test logged at the number of updates done before them, as they are in a run
    that is not interrupted. The trainer puts it before all other callbacks, which may log."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        set_logged_step(trainer, trainer.global_step)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        set_logged_step(trainer, trainer.global_step)
