"""The images of `hn predict`, in the folders that GenEval's evaluation reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lightning as L

from hn.data.prompts import PromptBatch
from hn.evaluation.methods import MethodOutput
from hn.evaluation.samples import Samples
from hn.utils.errors import InputError
from hn.utils.files import write_text
from hn.utils.images import to_pil, write_png
from hn.utils.text import say, shortened, some_of


class PredictionWriter(L.Callback):
    """Writes `images/<prompt's number, 5 digits>/metadata.jsonl` and `samples/0000.png, ...` in the run's directory.

    `metadata.jsonl` holds the prompt's row as it is in the prompt file. Images are written beside and take their place
    when all are made; those of an earlier prediction stay until then, and are removed first. An image that is not
    finite is not written.
    """

    def __init__(self) -> None:
        self.not_finite: list[str] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.not_finite = []
        self._remove_unfinished(trainer)
        trainer.strategy.barrier()

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
            folder = self._unfinished(trainer) / f"{index:05d}"
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            write_text(folder / "metadata.jsonl", json.dumps(row) + "\n")
            if image.isfinite().all():
                write_png(to_pil(image), folder / "samples" / f"{copy:04d}.png")
            else:
                self.not_finite.append(f"image {copy} of {shortened(row['prompt'])}")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the images into their place, and say where they are.

        Raises:
            InputError: if some were not finite; names them.
        """
        trainer.strategy.barrier()  # until all processes have written theirs
        if trainer.is_global_zero:
            self._replace_earlier(trainer)
            say(f"images       {self.folder(trainer)}")
        if self.not_finite:
            raise InputError(
                f"{len(self.not_finite)} images are not finite and were not written to {self.folder(trainer)}: "
                f"{some_of(self.not_finite)}. Look for NaN in the weights, or choose a wider dtype than float16."
            )

    def _replace_earlier(self, trainer: L.Trainer) -> None:
        folder = self.folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.iterdir():
            if earlier.is_dir() and earlier.name.isdigit():
                shutil.rmtree(earlier)
        for made in sorted(self._unfinished(trainer).glob("*")):
            made.rename(folder / made.name)
        self._remove_unfinished(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.predicting:
            self._remove_unfinished(trainer)

    @staticmethod
    def folder(trainer: L.Trainer) -> Path:
        """Where the images go."""
        return Path(trainer.default_root_dir) / "images"

    @staticmethod
    def _unfinished(trainer: L.Trainer) -> Path:
        """Where they are written first; the same folder for all processes."""
        return Path(trainer.default_root_dir) / "images.partial"

    def _remove_unfinished(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            shutil.rmtree(self._unfinished(trainer), ignore_errors=True)
