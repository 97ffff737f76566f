"""A training through `hn fit`'s classes against a hand-written loop of the same computation, on the miniature.

Both take the same updates: noise, conditioning, f, image, reward, loss, backward pass, clipping and optimiser. The loop
has no logging, checkpoints, progress bar or data loader; the training has those of the experiment, but for validations.
Seconds are those of an update, from the beginning of one to the beginning of the next.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks.miniature import TRAIN, make_module, prompts
from benchmarks.timing import wait
from hn.data import PromptDataModule
from hn.generators.noise import TrainingNoise
from hn.objective import noise_hypernetwork_loss
from hn.training.callbacks.nonfinite import SkipNonFinite
from hn.training.callbacks.progress import StepProgressBar
from hn.training.module import NoiseHypernetModule
from hn.training.trainer import ExperimentTrainer

BATCH, CLIP = 32, 0.3


class Clock(L.Callback):
    """When each update began."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        wait(pl_module.device)
        self.times.append(time.perf_counter())


def fit(module: NoiseHypernetModule, updates: int) -> list[float]:
    """Seconds of updates through the trainer."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = ExperimentTrainer(
            default_root_dir=folder,
            accelerator="auto",
            devices=1,
            max_epochs=-1,
            max_steps=updates + 1,
            gradient_clip_val=CLIP,
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[clock, StepProgressBar(), LearningRateMonitor(), SkipNonFinite()],
            logger=TensorBoardLogger(folder),
        )
        trainer.fit(module, PromptDataModule(train=str(TRAIN), batch_size=BATCH))
    return list(np.diff(clock.times))


def loop(module: NoiseHypernetModule, updates: int, device: torch.device) -> list[float]:
    """Seconds of the same updates, by hand."""
    generator, hypernet, reward = module.generator, module.hypernet, module.reward
    trained = [p for p in hypernet.parameters() if p.requires_grad]
    optimizer = module.optimizer_factory(trained)
    texts = prompts(BATCH * (updates + 1))
    draw_noise = TrainingNoise("inf")
    times = []
    for update in range(updates + 1):
        wait(device)
        times.append(time.perf_counter())
        batch = texts[update * BATCH :][:BATCH]
        noise = draw_noise(BATCH, generator, 0, update)
        conditioning = generator.encode(batch)
        f = hypernet(noise, conditioning)
        images = generator.generate(noise + f, conditioning)
        loss = noise_hypernetwork_loss(reward(images, batch).total, f, "mean", 1.0).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
    return list(np.diff(times))


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Seconds of an update either way, in turns of ten updates, and the ratio."""
    module = make_module(device)
    taken: dict[str, list[float]] = {"loop": [], "hn": []}
    for _ in range(rounds):
        taken["loop"].append(float(np.median(loop(module, 10, device))))
        taken["hn"].append(float(np.median(fit(module, 10))))
        module.to(device)
    ratios = np.array(taken["hn"][1:]) / np.array(taken["loop"][1:])  # the first round warms up
    draws = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    seconds = {name: {"seconds": float(np.median(values[1:]))} for name, values in taken.items()}
    interval = [float(q) for q in np.quantile(draws, [0.025, 0.975])]
    return {**seconds, "ratio": float(np.median(ratios)), "ratio_ci95": interval}
