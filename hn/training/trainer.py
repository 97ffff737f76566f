"""Lightning's Trainer with further commands of an experiment: train, compare and generate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hn.evaluation.categories import Categories
from hn.evaluation.comparison.details import details, image_rows
from hn.evaluation.comparison.gallery import Gallery, choose_prompts
from hn.evaluation.comparison.kept import KeptRecords, measurement_settings
from hn.evaluation.comparison.measure import measure, reference_features
from hn.evaluation.comparison.options import Comparison, name_at
from hn.evaluation.generate import ImageRequest, write_images
from hn.evaluation.methods import Method, Sampled, Searched
from hn.evaluation.samples import Samples
from hn.hypernets.finetune import LoraFinetune
from hn.report.comparison import GALLERY
from hn.report.curves import plot_curves, validation_curves
from hn.report.page import write_report
from hn.report.result_files import IMAGES_CSV, METHODS_CSV, TIMING_JSON, write_images_csv, write_methods_csv
from hn.report.results import finite, write_results
from hn.report.tables import results_table
from hn.search import WarmStart
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.images import ImageGrid
from hn.training.checkpoints import TrainingCheckpointIO
from hn.training.compare import check_comparison
from hn.training.module import NoiseHypernetModule
from hn.training.run_directory import CHECKPOINTS, WEIGHTS
from hn.utils.files import unused_directory, write_json
from hn.utils.images import labelled_grid
from hn.utils.progress import SharedProgress

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Callback)


class ExperimentTrainer(L.Trainer):
    """A `lightning.Trainer` with three more methods. `default_root_dir` is the run's directory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._measuring = False
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:  # the default, not one that was asked for
            self.strategy.checkpoint_io = TrainingCheckpointIO()

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return Path(self.default_root_dir)

    @property
    def is_working(self) -> bool:
        """Whether batches have been worked on; errors before that are mostly the user's to mend."""
        loops = (self.fit_loop.epoch_loop, self.validate_loop, self.test_loop, self.predict_loop)
        return self._measuring or any(loop.batch_progress.total.ready > 0 for loop in loops)

    def callback(self, kind: type[C]) -> C | None:
        """The first callback of a class; None if there is none."""
        return next((callback for callback in self.callbacks if isinstance(callback, kind)), None)

    def fit(self, model: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Train without the final test, as Lightning does.

        Raises:
            ValueError: if a callback waits for a score that will not be there.
        """
        if isinstance(model, NoiseHypernetModule):
            monitors = [(type(c), c.monitor) for c in self.callbacks if isinstance(c, ModelCheckpoint | EarlyStopping)]
            check_monitors(monitors, self.callback(Evaluation) is not None, len(model.reward.held_out) > 0)
        super().fit(model, *args, **kwargs)

    def train(
        self, model: NoiseHypernetModule, datamodule: L.LightningDataModule, ckpt_path: str | None = None
    ) -> None:
        """Train, then test the best checkpoint: weights, results, pictures and a table.

        Without a `ModelCheckpoint` that monitors something, or if its file is gone, the last weights are tested.

        Args:
            model: the module.
            datamodule: its prompts.
            ckpt_path: checkpoint to continue from: "last", "best" or a file; "last" needs the run's name.
        """
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        timer = self.callback(Timer)
        training = {
            "steps": self.global_step,
            "seconds": timer.time_elapsed("train") if timer else None,
            "best_step": None,
            "best_checkpoint": None,
        }
        best = self._best_checkpoint()
        if best is not None:
            checkpoint = torch.load(best, map_location="cpu", weights_only=True)
            model.on_load_checkpoint(checkpoint)
            training |= {"best_step": checkpoint["global_step"], "best_checkpoint": best.name}
        model.hypernet.save_pretrained(self.directory / WEIGHTS, training=training, write=self.is_global_zero)
        self.test(model, datamodule=datamodule, verbose=False)
        evaluation = self.callback(Evaluation)
        if evaluation is not None and self.is_global_zero:
            self._report(model, evaluation.summaries("test"), training=training)

    def compare(
        self,
        model: NoiseHypernetModule,
        datamodule: L.LightningDataModule,
        comparison: Comparison,
        hypernet: str | None = None,
        finetune: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Measure base, hypernetwork, fine-tune and test-time searches on the test prompts, from the same noise.

        What is measured is kept in the directory's `records`, batch by batch, and images in `gallery`. Started again in
        the same directory, an interrupted comparison goes on from there, and one with more searches or numbers of steps
        measures those alone; prompts may be grouped by another category. Its results are `results.json`, `results.csv`
        and `images.csv`, drawn in `report.html` and `figures`.

        Args:
            model: the module; its hypernetwork is replaced by the trained one.
            datamodule: its prompts.
            comparison: the searches, numbers of steps, categories and the size of the gallery.
            hypernet: folder of the trained hypernetwork; by default the newest run's, trained if there is none.
            finetune: folder of the trained fine-tune; by default the newest run's of the comparison's experiment,
                trained if there is none; without such an experiment there is no fine-tune.
            settings: the configuration behind all of it, `comparison` included, to know by whether what the directory
                has can be gone on with; nothing is kept without.

        Raises:
            ValueError: if the module trains a fine-tune, there is no `Evaluation` callback to judge, the generator
                cannot do so many steps, no prompt has the category's field, or what the directory has was measured with
                other settings.
        """
        evaluation, grid = self.callback(Evaluation), self.callback(ImageGrid)
        check_comparison(evaluation is not None, model.mode != "hypernetwork")
        for steps in comparison.more_steps(model.generator.steps):
            model.generator.check_steps(steps)
        model.to(self.strategy.root_device)
        model.load_trained(hypernet)
        methods = self._compared_methods(model, comparison, finetune)
        datamodule.setup("test")
        loader = datamodule.test_dataloader()
        batches = list(loader)
        prompts = {
            i: text for batch in batches for i, text in zip(batch["index"].tolist(), batch["prompt"], strict=True)
        }
        rows = [row for batch in batches for row in batch["metadata"]]
        files = getattr(getattr(loader, "dataset", None), "files", None)  # of a `PromptDataset`
        grouped = Categories.of(comparison.category, rows, [files[i] for i in prompts] if files else None)
        categories = dict(zip(prompts, grouped.names, strict=True))
        model.generator.check_prompts([*prompts.values()])
        weights = {"hypernetwork": hypernet, "finetune": finetune}
        kept, own, started = None, {}, dict.fromkeys(method.name for method in methods)
        choose = partial(choose_prompts, categories, comparison.gallery)
        if settings is not None:
            own = settings["comparison"].get("searches") or {}
            shared = {**settings, "comparison": {"gallery": comparison.gallery}}
            kept = KeptRecords(self.directory / "records", measurement_settings(shared, weights, batches))
            # refused now, not after hours
            started = {method.name: kept.load(method.name, own.get(method.name)) for method in methods}
        gallery = Gallery(self.directory / GALLERY, choose() if kept is None else kept.gallery(choose))
        for callback in self.callbacks:
            callback.setup(self, model, "test")

        self._measuring = True
        noise = {"images_per_prompt": model.images_per_prompt, "seed": model.evaluation_seed}
        records = {}
        with self.precision_plugin.forward_context():
            reference = kept.load_reference() if kept is not None else None
            if reference is None:
                reference = reference_features(model.generator, evaluation.scorer, batches, **noise)
                if kept is not None and reference is not None:
                    kept.keep_reference(reference)
            left = {name: batches[record.batches if record else 0 :] for name, record in started.items()}
            progress = SharedProgress({m.name: (len(left[m.name]), m.expected_nfe) for m in methods})
            for method in methods:
                name = method.name
                keep = None if kept is None else partial(kept.keep, own=own.get(name), of_batches=len(batches))
                record = measure(
                    method,
                    evaluation.scorer,
                    model.generator,
                    progress.over(left[name], name),
                    **noise,
                    record=started[name],
                    after_batch=keep,
                    after_images=gallery.keep,
                )
                records |= {found.name: found for found in (*record.earlier.values(), record)}
            picture = self.directory / "images" / "comparison.png"
            if grid is not None and (any(left.values()) or not picture.is_file()):
                grid.last_path = self._comparison_picture(methods, grid)
        base = records["base"]
        summaries = {}
        for name, record in records.items():
            against = None if record is base else base
            summaries[name] = record.summary(against, reference) | details(record, categories, against)
        runs = {name: Path(folder).parent for name, folder in weights.items() if folder is not None}
        results = self._report(
            model,
            summaries,
            weights=weights,
            reward_weights=dict(model.reward.weights),
            grouped_by=grouped.fields,
            curves={name: validation_curves(run) for name, run in runs.items()},
        )
        write_methods_csv(self.directory / METHODS_CSV, results["methods"])
        rows = (row for record in records.values() for row in image_rows(record, prompts, categories))
        write_images_csv(self.directory / IMAGES_CSV, rows)
        traces = {name: record.trace() for name, record in records.items() if record.trace()}
        # Not in results.json, which is the same for the same measurements but for the seconds of each image.
        timing = {"finished": datetime.now().astimezone().isoformat(timespec="seconds"), "traces": traces}
        write_json(self.directory / TIMING_JSON, finite(timing))
        curves = plot_curves(runs, self.directory / "images" / "curves.png", title=self.directory.parent.name)
        if curves is not None:
            print(f"curves       {curves}")
        print(f"report       {write_report(self.directory)}")

    def generate(
        self,
        model: NoiseHypernetModule,
        prompt: list[str] | str,
        hypernet: str | None = None,
        count: int = 4,
        seed: int = 0,
        steps: int | None = None,
        batch_size: int = 1,
        upscale: int | None = None,
        compare: bool = True,
    ) -> None:
        """Write images of prompts, base and trained model from the same noise: PNGs, their metadata and an overview.

        Args:
            model: the module; its hypernetwork (or fine-tune) is replaced by the trained one.
            prompt: a prompt, or a list of prompts like '["a red star", "two hearts"]'.
            hypernet: folder of the trained weights; by default the newest run's, else the experiment's own.
            count: images of each prompt.
            seed: of the noise.
            steps: sampling steps; the generator's own number if not given.
            batch_size: images made at once; with 1 they do not depend, to the last bit, on how many are asked for.
            upscale: each pixel becomes upscale x upscale pixels of the overview; enough for its labels if not given.
            compare: whether to make the base's images too, and an overview of both.

        Raises:
            ValueError: if there are no prompts, the generator cannot take one of them, or a number is below 1 or more
                than the generator can do.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        request = ImageRequest(prompts, count, seed, steps, batch_size, upscale)
        request.check(model.generator)
        model.to(self.strategy.root_device)
        model.load_trained(hypernet)

        self._measuring = True
        methods = [model.base_method(steps)] if compare else []
        methods.append(model.trained_method(steps))
        print(f"weights      {hypernet}")
        facts = {"hypernet": hypernet, "precision": self.precision}
        write_images(methods, request, unused_directory(self.directory), facts, self.precision_plugin.forward_context)

    def _best_checkpoint(self) -> Path | None:
        """The file of the first `ModelCheckpoint` that monitors something; None if it has none."""
        paths = (c.best_model_path for c in self.callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
        found = next(paths, "")
        if not found:
            return None
        # A run that was moved, and continued, knows the path it had before.
        for path in (Path(found), self.directory / CHECKPOINTS / Path(found).name):
            if path.is_file():
                return path
        log.warning("The best checkpoint, %s, is gone; the last weights are tested and kept instead.", found)
        return None

    @staticmethod
    def _compared_methods(model: NoiseHypernetModule, comparison: Comparison, finetune: str | None) -> list[Method]:
        """Base, hypernetwork and fine-tune, each at the generator's own and then at more steps, and the searches."""
        more = comparison.more_steps(model.generator.steps)
        methods = []
        for make in (model.base_method, model.trained_method):
            methods += [make(), *map(make, more)]
        if finetune is not None:
            _, tuned = LoraFinetune.from_pretrained(finetune, model.generator)
            methods += [Sampled("finetune", tuned, is_base=False, steps=steps) for steps in (None, *more)]
        for method in methods:
            if method.steps != model.generator.steps:
                method.name = name_at(method.name, method.steps)
        for name, search in comparison.searches.items():
            if search is not None:
                started = search.bound(model.hypernet) if isinstance(search, WarmStart) else search
                methods.append(Searched(name, model.generator, started, model.reward))
        return methods

    def _comparison_picture(self, methods: list[Method], grid: ImageGrid) -> Path:
        samples = Samples.of_prompts(methods[0].generator, grid.prompts, 1, grid.seed)
        path = self.directory / "images" / "comparison.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = {method.name: method(samples).images for method in methods}
        labelled_grid(rows, grid.prompts, grid.upscale).save(path)
        return path

    def _report(self, model: NoiseHypernetModule, summaries: dict[str, dict[str, Any]], **facts: Any) -> dict[str, Any]:
        path = self.directory / "results.json"
        dimensions = torch.Size(model.generator.noise_shape).numel()
        results = write_results(path, self.directory.parent.name, summaries, dimensions, **facts)
        grid = self.callback(ImageGrid)
        print(f"\n{results_table(results)}\n\nresults      {path}")
        if grid is not None and grid.last_path is not None:
            print(f"images       {grid.last_path}")
        if self.loggers:
            logger = self.loggers[0]  # `self.log_dir` would ask the other processes, which are not here
            print(f"tensorboard  {logger.log_dir or logger.save_dir}")
        return results


_VALIDATION_SCORES = tuple(
    f"val/{score}" for score in ("held_out_reward", "reward", "geneval", "kl_nats", "fidelity", "diversity")
)


def check_monitors(
    monitors: Iterable[tuple[type[Callback], str | None]], is_evaluated: bool, has_held_out: bool
) -> None:
    """Refuse callbacks that watch a score of validations which the `Evaluation` callback would log, and will not.

    Args:
        monitors: classes of callbacks, and what each of them monitors.
        is_evaluated: whether there is an `Evaluation` callback.
        has_held_out: whether there are held-out rewards.

    Raises:
        ValueError: names the callback and what to do.
    """
    for callback, monitor in monitors:
        if not is_evaluated and monitor in _VALIDATION_SCORES:
            why = "without the callback hn.training.callbacks.evaluation.Evaluation (`callbacks.evaluation`)"
            remedy = "Add that one"
        elif monitor == "val/held_out_reward" and not has_held_out:
            why, remedy = "without a held-out reward (`model.reward.init_args.held_out`)", "Add one"
        else:
            continue
        raise ValueError(
            f"{callback.__name__} monitors {monitor}, which is not measured {why}. {remedy}, or let "
            f"{callback.__name__} monitor something else, like "
            f"{'val/reward' if is_evaluated else 'train/reward'}, or drop it (null)."
        )
