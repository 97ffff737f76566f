"""Lightning's Trainer with further commands of an experiment: train, compare and generate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hn.evaluation.comparison.options import HYPERNETWORK, Comparison
from hn.evaluation.generate import ImageRequest, check_choice, chosen_methods, write_images
from hn.evaluation.methods import Sampled, TrainedMethod
from hn.hypernets.base import Hypernet
from hn.report.cautions import cautions
from hn.report.results import write_results
from hn.report.tables import results_table
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.images import ImageGrid
from hn.training.callbacks.logged_steps import LoggedSteps
from hn.training.checkpoints import TrainingCheckpointIO
from hn.training.compare import ComparedPrompts, ComparisonRun, check_comparison, load_networks
from hn.training.module import NoiseHypernetModule
from hn.training.run_directory import RESULTS, SUITE_RESULTS, WEIGHTS
from hn.utils.class_path import class_path
from hn.utils.distributed import class_of
from hn.utils.files import claimed_directory
from hn.utils.text import say

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Callback)


class ExperimentTrainer(L.Trainer):
    """A `lightning.Trainer` with three more methods. `default_root_dir` is the run's directory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("max_time") is not None and isinstance(kwargs.get("callbacks"), list):
            # Lightning ignores max_time beside a `Timer`, also one that only measures, as experiments have it.
            kwargs["callbacks"] = [callback for callback in kwargs["callbacks"] if not _only_measures(callback)]
        super().__init__(*args, **kwargs)
        self._measuring = False
        self.callbacks.insert(0, LoggedSteps())
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:  # the default, not one that was asked for
            self.strategy.checkpoint_io = TrainingCheckpointIO()

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return Path(self.default_root_dir)

    @property
    def is_working(self) -> bool:
        """Whether batches have been worked on; errors before that are mostly the user's to fix."""
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
            model.take_weights(checkpoint)
            training |= {"best_step": checkpoint["global_step"], "best_checkpoint": best.name}
        if self.is_global_zero:  # those of the weights that are now replaced, and of suites that are no longer there
            for path in (self.directory / RESULTS, *self.directory.glob(SUITE_RESULTS)):
                path.unlink(missing_ok=True)
        model.hypernet.save_pretrained(self.directory / WEIGHTS, training=training, write=self.is_global_zero)
        self.test(model, datamodule=datamodule, verbose=False)
        evaluation = self.callback(Evaluation)
        if evaluation is not None and self.is_global_zero:
            training["finished"] = datetime.now().astimezone().isoformat(timespec="seconds")
            weights = dict(model.reward.weights)
            self._report(model, evaluation.summaries("test"), training=training, reward_weights=weights)

    def compare(
        self,
        model: NoiseHypernetModule,
        datamodule: L.LightningDataModule,
        comparison: Comparison,
        hypernet: str | None = None,
        finetune: str | None = None,
        *,
        settings: Mapping[str, Any],
        trust_remote_code: Sequence[str] = (),
    ) -> None:
        """Measure base, trained networks and test-time searches on the test prompts, from the same noise.

        What is measured is kept in the directory's `records`, batch by batch, and images in `gallery`. Started again in
        the same directory, an interrupted comparison resumes from there, and one with more networks, searches or
        numbers of steps measures those alone; prompts may be grouped by another category. Its results are
        `results.json`, `results.csv` and `images.csv`, drawn in `report.html` and `figures`.

        Args:
            model: the module; its hypernetwork is replaced by the trained one.
            datamodule: its prompts.
            comparison: the searches, numbers of steps, categories and the size of the gallery. The trained networks in
                it are folders or Hub ids by now: the command has put them in the place of experiments.
            hypernet: folder of the trained hypernetwork; by default the newest run's, trained if there is none.
            finetune: likewise of the fine-tune; without an experiment of the comparison for it, there is none.
            settings: the configuration behind all of it, `comparison` included; measurements in the directory that were
                made with other settings are refused.
            trust_remote_code: class paths of hypernetworks, not of hn, that saved weights may name.

        Raises:
            ValueError: if the module trains a fine-tune, there is no `Evaluation` callback to judge, a trained network
                does not fit the generator, that cannot do so many steps, no prompt has the category's field, or what
                the directory has was measured with other settings.
        """
        evaluation, grid = self.callback(Evaluation), self.callback(ImageGrid)
        check_comparison(evaluation is not None, not isinstance(model.hypernet, Hypernet))
        for steps in comparison.more_steps(model.generator.steps):
            model.generator.check_steps(steps)
        model.to(self.strategy.root_device)
        assert hypernet is not None  # found, or trained, by the command
        comparison = replace(comparison, finetune=finetune or comparison.finetune)
        weights = {HYPERNETWORK: hypernet, **comparison.networks}
        networks = load_networks(weights, model.generator, [*trust_remote_code, class_path(class_of(model.hypernet))])
        model.hypernet = networks[HYPERNETWORK]
        datamodule.setup("test")
        prompts = ComparedPrompts.of(datamodule.test_dataloader(), comparison.category)
        model.generator.check_prompts([*prompts.texts.values()])
        run = ComparisonRun(self.directory, model, prompts, comparison, networks, weights, settings)
        for callback in self.callbacks:
            callback.setup(self, model, "test")

        say("\n".join(f"weights      {name}: {folder}" for name, folder in weights.items()))
        self._measuring = True
        with self.precision_plugin.forward_context():
            assert evaluation is not None  # see check_comparison
            run.measure(evaluation.scorer)
            if grid is not None:
                grid.last_path = run.draw(grid) or grid.last_path
        results = self._report(model, run.summaries(), **run.facts())
        run.write_report(results["methods"])

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
        best_of: int | None = None,
        keep_candidates: bool = False,
        *,
        trust_remote_code: Sequence[str] = (),
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
            best_of: make so many images in the place of each, and let the experiment's reward choose one.
            keep_candidates: write all of these too.
            trust_remote_code: as for `compare`.

        Raises:
            ValueError: if there are no prompts, generator or rewards cannot take one of them, or a number is below 1 or
                more than the generator can do.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        request = ImageRequest(prompts, count, seed, steps, batch_size, upscale, best_of, keep_candidates)
        request.check(model.generator)
        check_choice(request, model.reward)
        model.to(self.strategy.root_device)
        assert hypernet is not None  # found, or trained, by the command
        model.load_trained(hypernet, trust_remote_code)

        self._measuring = True
        methods: list[Sampled | TrainedMethod] = [model.base_method(steps)] if compare else []
        methods.append(model.trained_method(steps))
        chosen = chosen_methods(methods, request, model.reward)
        facts: dict[str, Any] = {"hypernet": hypernet, "precision": self.precision}
        if best_of is not None:
            facts["reward_weights"] = dict(model.reward.weights)
        with claimed_directory(self.directory) as claimed:
            write_images(chosen, request, claimed, facts, self.precision_plugin.forward_context)

    def _best_checkpoint(self) -> Path | None:
        """The file of the first `ModelCheckpoint` that monitors something; None if it has none."""
        watching = (c for c in self.callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
        callback = next(watching, None)
        found = "" if callback is None else callback.best_model_path
        if not found:
            return None
        if Path(found).is_file():
            return Path(found)
        log.warning("The best checkpoint, %s, is gone; the last weights are tested and kept instead.", found)
        return None

    def _report(self, model: NoiseHypernetModule, summaries: dict[str, dict[str, Any]], **facts: Any) -> dict[str, Any]:
        path = self.directory / RESULTS
        dimensions = torch.Size(model.generator.noise_shape).numel()
        results = write_results(path, self.directory.parent.name, summaries, dimensions, **facts)
        grid = self.callback(ImageGrid)
        say("\n".join(["", results_table(results), *cautions(results), "", f"results      {path}"]))
        if grid is not None and grid.last_path is not None:
            say(f"images       {grid.last_path}")
        if self.loggers:
            logger = self.loggers[0]  # `self.log_dir` would ask the other processes, which are not here
            folder = logger.log_dir or logger.save_dir
            if not isinstance(logger, TensorBoardLogger) or any(Path(folder).glob("events.out.tfevents.*")):
                say(f"tensorboard  {folder}")
        return results


def _only_measures(callback: Callback) -> bool:
    return isinstance(callback, Timer) and callback.time_remaining() is None


_VALIDATION_SCORES = tuple(
    f"val/{score}" for score in ("held_out_reward", "reward", "geneval", "kl_nats", "cmmd", "diversity")
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
