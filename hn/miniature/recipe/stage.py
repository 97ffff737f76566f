"""What the stages of the recipe share: a LightningModule that makes its own seeded batches, and a resumable fit."""

from __future__ import annotations

import math
import random
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader


class Stage(L.LightningModule):
    """A network trained on scenes that are made on the fly.

    The batch of step k depends on (seed, k) alone, so an interrupted stage continues exactly.

    Args:
        steps: optimiser steps; the learning rate warms up over 3 % of them and follows a cosine to zero.
        batch_size: scenes a step.
        learning_rate: AdamW's peak learning rate.
        seed: seed of weights and data.
    """

    def __init__(
        self, steps: int, batch_size: int, learning_rate: float, seed: int, weight_decay: float = 1e-4
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def rngs(self) -> tuple[torch.Generator, random.Random]:
        """Generators for tensors and for captions, seeded by the stage's seed and the current step."""
        key = self.seed * 1_000_003 + self.global_step
        return torch.Generator().manual_seed(key), random.Random(key)

    def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
        """Named scalars; `loss` is minimised, the others are logged."""
        raise NotImplementedError

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        terms = self.loss(*self.rngs())
        self.log_dict(terms, prog_bar=True)
        return terms["loss"]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(self.steps), batch_size=None)

    def configure_optimizers(self):
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, self.learning_rate, betas=(0.9, 0.98), weight_decay=self.weight_decay)
        warmup = max(1, round(0.03 * self.steps))

        def factor(step: int) -> float:
            progress = (step - warmup) / max(1, self.steps - warmup)
            return (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar over the steps of a stage; a resumed stage shows where it goes on."""

    def on_train_start(self, trainer: L.Trainer, *_: L.LightningModule) -> None:
        super().on_train_start(trainer)
        # Lightning starts an epoch, and with it the bar, only where a stage begins.
        self.train_progress_bar.total = trainer.max_steps
        self.train_progress_bar.initial = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)


def fit(stage: Stage, name: str, work: Path, checkpoint_every: int = 500) -> Stage:
    """Train `stage` to its last step, resuming from `work/name/last.ckpt` where an earlier call was interrupted.

    The weights that come out are the same, bit for bit, however often it was (on one kind of device).
    """
    folder = work / name
    last = folder / "last.ckpt"
    trainer = L.Trainer(
        max_steps=stage.steps,
        accelerator="auto",
        devices=1,
        gradient_clip_val=1.0,
        logger=TensorBoardLogger(work, name=name, version=""),
        callbacks=[
            ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=checkpoint_every),
            LearningRateMonitor("step"),
            StepProgressBar(refresh_rate=20),
        ],
        log_every_n_steps=50,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        # It need not be: batches follow from the step, not from the loader.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
        trainer.fit(stage, ckpt_path=last if last.exists() else None, weights_only=True)
    trainer.save_checkpoint(last)
    return stage.eval().cpu()
