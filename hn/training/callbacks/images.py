"""Fixed prompts and noises, generator above trained model, to PNG and TensorBoard."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torchvision.transforms.functional import to_tensor

from hn.evaluation.samples import Samples
from hn.training.module import NoiseHypernetModule
from hn.training.run_directory import GRIDS
from hn.utils.images import labelled_grid, write_png


class ImageGrid(L.Callback):
    """Draws the same prompts from the same noise after every validation and after the test.

    Written to `images/step_<step>.png` and `images/final.png` in the run's directory, and to TensorBoard as "images".

    Args:
        prompts: one column each.
        images_per_prompt: pairs of rows (generator, trained model).
        seed: of the noise.
        upscale: each pixel becomes upscale x upscale pixels of the picture; for tiny images.

    Raises:
        ValueError: if there are no prompts, or a number is below 1.
    """

    def __init__(self, prompts: list[str], images_per_prompt: int = 2, seed: int = 7, upscale: int = 1) -> None:
        if not prompts or images_per_prompt < 1 or upscale < 1:
            raise ValueError(
                "ImageGrid needs at least one prompt, image per prompt and pixel per pixel; got "
                f"prompts {prompts}, images_per_prompt {images_per_prompt}, upscale {upscale}."
            )
        self.prompts, self.images_per_prompt, self.seed, self.upscale = prompts, images_per_prompt, seed, upscale
        self.last_path: Path | None = None

    def setup(self, trainer: L.Trainer, pl_module: NoiseHypernetModule, stage: str) -> None:
        pl_module.generator.check_prompts(self.prompts)

    def on_train_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        """Remove the pictures of later updates, which the run had before it went back to this one."""
        folder = Path(trainer.default_root_dir) / "images"
        for path in folder.glob(GRIDS) if trainer.is_global_zero else ():
            number = path.stem.removeprefix("step_")
            if number.isdigit() and int(number) > trainer.global_step:
                path.unlink(missing_ok=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, f"step_{trainer.global_step:06d}")

    def on_test_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._draw(trainer, pl_module, "final")

    @torch.no_grad()
    def _draw(self, trainer: L.Trainer, module: NoiseHypernetModule, name: str) -> None:
        copies = self.images_per_prompt
        samples = Samples.of_prompts(module.generator, self.prompts, copies, self.seed)
        with trainer.precision_plugin.forward_context():
            images = {method.name: method(samples).images for method in (module.base_method(), module.trained_method())}
        if not trainer.is_global_zero:  # not earlier: processes that share the weights make the images together
            return
        rows = {f"{name} {copy + 1}": images[name][copy::copies] for copy in range(copies) for name in images}
        picture = labelled_grid(rows, self.prompts, self.upscale)
        folder = Path(trainer.default_root_dir) / "images"
        folder.mkdir(parents=True, exist_ok=True)
        self.last_path = folder / f"{name}.png"
        write_png(picture, self.last_path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("images", to_tensor(picture), trainer.global_step)
