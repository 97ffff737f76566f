"""Fixed prompts and noises, base above trained model, to TensorBoard and PNG."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from hn.module import NoiseHypernetModule
from hn.noise import evaluation_noise
from hn.report.grid import labelled_grid


class ImageGrid(L.Callback):
    """Draws the same prompts from the same noise at every validation, at the start and at the end.

    Args:
        prompts: one column each.
        images_per_prompt: pairs of rows (base, trained model).
        seed: of the noise.
        upscale: each pixel becomes so many in the file; for tiny images.
    """

    def __init__(self, prompts: list[str], images_per_prompt: int = 2, seed: int = 7, upscale: int = 1) -> None:
        if not prompts:
            raise ValueError("ImageGrid needs at least one prompt.")
        self.prompts, self.images_per_prompt, self.seed, self.upscale = prompts, images_per_prompt, seed, upscale
        self.last_path: Path | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        pl_module.generator.encode(self.prompts)  # a prompt that the generator refuses stops the run before training

    def on_validation_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, f"step_{trainer.global_step:06d}")

    def on_test_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._draw(trainer, pl_module, "final")

    @torch.no_grad()
    def _draw(self, trainer: L.Trainer, module: NoiseHypernetModule, name: str) -> None:
        if not trainer.is_global_zero:
            return
        copies = self.images_per_prompt
        prompts = [prompt for prompt in self.prompts for _ in range(copies)]
        noise = evaluation_noise(module.generator, range(len(self.prompts)), copies, self.seed)
        conditioning = module.generator.encode(prompts)
        base = module.generator.generate(noise, conditioning).cpu()
        trained = module(noise, conditioning)[0].cpu()
        rows = {}
        for copy in range(copies):
            rows[f"base {copy + 1}"] = base[copy::copies]
            rows[f"{module.mode} {copy + 1}"] = trained[copy::copies]
        picture = labelled_grid(rows, self.prompts, self.upscale)
        folder = Path(trainer.default_root_dir) / "images"
        folder.mkdir(parents=True, exist_ok=True)
        self.last_path = folder / f"{name}.png"
        picture.save(self.last_path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                from torchvision.transforms.functional import to_tensor

                logger.experiment.add_image("images", to_tensor(picture), trainer.global_step)
