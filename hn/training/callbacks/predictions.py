"""The images of `hn predict`, in the folders that GenEval's evaluation reads."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L

from hn.data.prompts import PromptBatch
from hn.evaluation.methods import MethodOutput
from hn.evaluation.samples import Samples
from hn.utils.files import write_text
from hn.utils.images import to_pil, write_png
from hn.utils.text import say


class PredictionWriter(L.Callback):
    """Writes `images/<prompt's number, 5 digits>/metadata.jsonl` and `samples/0000.png, ...` in the run's directory.

    `metadata.jsonl` holds the prompt's row as it is in the prompt file.
    """

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: tuple[Samples, MethodOutput],
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        samples, output = outputs
        for index, copy, row, image in zip(samples.index, samples.copy, samples.metadata, output.images, strict=True):
            folder = self.folder(trainer) / f"{index:05d}"
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            write_text(folder / "metadata.jsonl", json.dumps(row) + "\n")
            write_png(to_pil(image), folder / "samples" / f"{copy:04d}.png")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            say(f"images       {self.folder(trainer)}")

    @staticmethod
    def folder(trainer: L.Trainer) -> Path:
        """Where the images go."""
        return Path(trainer.default_root_dir) / "images"
