"""Lightning's Trainer with the verbs of an experiment: train, compare and generate."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hn.callbacks.evaluation import Evaluation
from hn.callbacks.images import ImageGrid
from hn.comparison import Comparison
from hn.evaluation.compare import measure, reference_features
from hn.evaluation.methods import Method, Modulated, Sampled, Searched
from hn.hypernets.base import Hypernet
from hn.hypernets.finetune import LoraFinetune
from hn.module import NoiseHypernetModule
from hn.noise import evaluation_noise
from hn.report.grid import labelled_grid, to_pil
from hn.report.results import write_results
from hn.report.table import results_table

log = logging.getLogger(__name__)


class ExperimentTrainer(L.Trainer):
    """A `lightning.Trainer` with three more verbs; `default_root_dir` is the run's directory."""

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return Path(self.default_root_dir)

    def train(
        self, model: NoiseHypernetModule, datamodule: L.LightningDataModule, ckpt_path: str | None = None
    ) -> None:
        """Fit, take the best checkpoint (the last weights if none is monitored), test it, write and print the results.

        Args:
            model: the module.
            datamodule: its prompts.
            ckpt_path: checkpoint to continue from; "last" for the newest of this run directory.

        Raises:
            FileNotFoundError: if there is nothing to continue from.
        """
        if ckpt_path == "last" and not list(self.directory.glob("checkpoints/last*.ckpt")):
            raise FileNotFoundError(
                f"{self.directory}/checkpoints holds no last.ckpt to continue from; name the interrupted run with "
                "--run.name, or leave --ckpt_path out to start anew."
            )
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        if self.interrupted:
            return
        best = next(
            (path for c in self.callbacks if isinstance(c, ModelCheckpoint) and (path := c.best_model_path)), None
        )
        if best:
            log.info("Evaluating the best checkpoint, %s", best)
            model.on_load_checkpoint(torch.load(best, map_location="cpu", weights_only=True))
        model.hypernet.save_pretrained(self.directory / "hypernet")
        self.test(model, datamodule=datamodule, verbose=False)
        evaluation = next((c for c in self.callbacks if isinstance(c, Evaluation)), None)
        if evaluation is not None and self.is_global_zero:
            self._report(model, evaluation.summaries("test"), best_checkpoint=Path(best).name if best else None)

    def compare(
        self,
        model: NoiseHypernetModule,
        datamodule: L.LightningDataModule,
        comparison: Comparison,
        hypernet: str | None = None,
        finetune: str | None = None,
    ) -> None:
        """Measure base, hypernetwork, fine-tune and test-time searches on the test prompts, from the same noise.

        Args:
            model: the module; its own, untrained hypernetwork is not used.
            datamodule: its prompts.
            comparison: the searches.
            hypernet: folder of the trained hypernetwork; by default the newest run's, trained if there is none.
            finetune: folder of the trained fine-tune; by default the newest run's of the comparison's experiment.
        """
        generator, reward = model.generator, model.reward
        methods: list[Method] = [
            Sampled("base", generator, base=True),
            Modulated("hypernetwork", generator, Hypernet.from_pretrained(hypernet, generator)),
        ]
        if finetune:
            methods.append(Sampled("finetune", LoraFinetune.from_pretrained(finetune, generator)[1], base=False))
        methods += [Searched(name, generator, search, reward) for name, search in comparison.searches.items()]

        evaluation = next((c for c in self.callbacks if isinstance(c, Evaluation)), None)
        if evaluation is None:
            raise ValueError("A comparison needs the callback hn.callbacks.evaluation.Evaluation in trainer.callbacks.")
        evaluation.setup(self, model.to(self.strategy.root_device), "test")
        datamodule.setup("test")
        batches = list(datamodule.test_dataloader())
        settings = {"images_per_prompt": model.images_per_prompt, "seed": model.evaluation_seed}
        scorer = evaluation.scorer
        reference = reference_features(generator, scorer, batches, **settings)
        records = [measure(m, scorer, generator, batches, **settings, progress=_progress) for m in methods]
        base = records[0]
        summaries = {r.name: r.summary(None if r is base else base, reference) for r in records}
        grid = next((c for c in self.callbacks if isinstance(c, ImageGrid)), None)
        if grid is not None:
            grid.last_path = self._comparison_picture(methods, generator, grid)
        self._report(model, summaries, hypernet=str(hypernet), finetune=finetune and str(finetune))

    def generate(
        self,
        model: NoiseHypernetModule,
        prompt: list[str],
        hypernet: str | None = None,
        count: int = 4,
        seed: int = 0,
        steps: int | None = None,
        upscale: int = 1,
    ) -> None:
        """Write images of prompts, base and hypernetwork from the same noise: PNGs, their metadata, and an overview.

        Args:
            model: the module.
            prompt: one or more prompts.
            hypernet: folder of a saved hypernetwork; the experiment's newest if not given.
            count: images of each prompt.
            seed: of the noise.
            steps: sampling steps; the generator's own number if not given.
            upscale: each pixel becomes so many in the overview.
        """
        generator = model.generator
        model.to(self.strategy.root_device)
        trained = Hypernet.from_pretrained(hypernet, generator)
        methods = [Sampled("base", generator, True, steps), Modulated("hypernetwork", generator, trained, steps)]
        prompts = [text for text in prompt for _ in range(count)]
        noise = evaluation_noise(generator, range(len(prompt)), count, seed)
        rows, metadata = {}, []
        self.directory.mkdir(parents=True, exist_ok=True)
        for method in methods:
            images = method(noise, prompts).images.cpu()
            rows[method.name] = images
            for number, (image, text) in enumerate(zip(images, prompts, strict=True)):
                name = f"{number:04d}_{method.name}.png"
                to_pil(image).save(self.directory / name)
                metadata.append(
                    {"file": name, "prompt": text, "method": method.name, "seed": seed, "steps": method.steps}
                )
        (self.directory / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
        labelled_grid(rows, prompts, upscale).save(self.directory / "overview.png")
        print(f"{len(metadata)} images and overview.png in {self.directory}")

    def _report(self, model: NoiseHypernetModule, summaries: dict[str, dict], **facts: Any) -> None:
        path = self.directory / "results.json"
        self.directory.mkdir(parents=True, exist_ok=True)
        dimensions = torch.Size(model.generator.noise_shape).numel()
        results = write_results(path, self.directory.parent.name, summaries, dimensions, **facts)
        print(f"\n{results_table(results)}")
        grid = next((c.last_path for c in self.callbacks if isinstance(c, ImageGrid)), None)
        print(f"results      {path}")
        if grid:
            print(f"images       {grid}")
        print(f"tensorboard  {self.directory}")

    def _comparison_picture(self, methods: list[Method], generator, grid: ImageGrid) -> Path:
        noise = evaluation_noise(generator, range(len(grid.prompts)), 1, grid.seed)
        rows = {method.name: method(noise, grid.prompts).images.cpu() for method in methods}
        path = self.directory / "images" / "comparison.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        labelled_grid(rows, grid.prompts, grid.upscale).save(path)
        return path


def _progress(batches, name: str):
    from tqdm import tqdm

    return tqdm(batches, desc=f"{name:>14}", unit="batch", leave=True)
