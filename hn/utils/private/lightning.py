"""Private names of Lightning."""

import lightning as L


def set_logged_step(trainer: L.Trainer, step: int) -> None:
    """Have loggers place what comes next at a number of updates. Lightning (2.6) counts these by itself, and counts one
    twice where a run continues between a validation and the next batch."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step
