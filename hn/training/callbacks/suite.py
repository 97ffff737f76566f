"""Rewards on another prompt set, by category, during training and at its end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from hn.data.module import PromptDataModule
from hn.evaluation.comparison.measure import measure
from hn.evaluation.detectors.base import Detector
from hn.evaluation.methods import Method
from hn.evaluation.record import MethodRecord, joined_over_processes
from hn.evaluation.scorer import Scorer, feature_extractor_of
from hn.evaluation.suite import SuitePrompts
from hn.report.results import write_results
from hn.report.tables import suite_table
from hn.training.callbacks.evaluation import Evaluation, scalars_of
from hn.training.module import NoiseHypernetModule
from hn.utils.class_path import import_class
from hn.utils.progress import with_progress
from hn.utils.text import say

B = TypeVar("B")

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_TAKEN = ("train", "val", "test", "predict")


class PromptSuite(L.Callback):
    """Scores the images of any prompt set, like DrawBench by category, by all rewards of the experiment.

    Generator and trained model are measured on the same noise, the generator once in each process. Logged as
    `<name>/reward`, `<name>/held_out_reward`, those of each reward, `<name>/geneval_<tag>`, `<name>/kl_nats` and
    `<name>/diversity`, with `base_` for the generator, and for each category `<name>/<category>/reward` and
    `<name>/<category>/held_out_reward`. These names can be monitored. At the end `results_<name>.json` in the run's
    directory has the means, the 95 % intervals of the differences and the categories.

    Prompts that are trained on too are left out and counted, in a message and in that file. Several processes share the
    batches, and get the numbers of one.

    Args:
        name: of the suite; of letters, digits, ".", "_" and "-".
        prompts: a prompt file, the name of a set, several of them, or a mapping to numbers of repetitions, as
            `PromptDataModule` takes them.
        category: field of the rows by which prompts are grouped, in lower case, like `category` or `challenge` of
            PartiPrompts; "file" for the file or set that a prompt comes from, like hpdv2/anime.
        images_per_prompt: images of each prompt.
        every_n_steps: updates between two measurements in training; None for none.
        at_end: measure at the end of `hn train` and `hn test`, with the weights that are tested.
        limit: measure on so many prompts only, evenly spread over the set.
        batch_size: prompts at once.
        detector: for GenEval's verdicts on prompts that have its metadata; by default the one of the `Evaluation`
            callback, whose benchmark metrics score rows of theirs too.
        seed: of the noise.

    Raises:
        ValueError: if a name is not usable or taken, a number is below 1, or there is nothing to do; before the work
            starts, if prompts are not as they should be (see `SuitePrompts.read`), or the generator cannot take one.
        FileNotFoundError, DownloadError: likewise, for prompts that are missing.
    """

    def __init__(
        self,
        name: str,
        prompts: dict[str, float] | list[str] | str,
        category: str | None = None,
        images_per_prompt: int = 1,
        every_n_steps: int | None = None,
        at_end: bool = True,
        limit: int | None = None,
        batch_size: int = 4,
        detector: Detector | None = None,
        seed: int = 0,
    ) -> None:
        if _NAME.fullmatch(name) is None or name in _TAKEN:
            raise ValueError(
                f"The name of a prompt suite is of letters, digits, '.', '_' and '-', and none of {', '.join(_TAKEN)}; "
                f"not {name!r}."
            )
        if any(number is not None and number < 1 for number in (images_per_prompt, batch_size, every_n_steps, limit)):
            raise ValueError(
                "images_per_prompt, batch_size, every_n_steps and limit of a prompt suite must be at least 1; got "
                f"{images_per_prompt}, {batch_size}, {every_n_steps} and {limit} for {name}."
            )
        if every_n_steps is None and not at_end:
            raise ValueError(f"The prompt suite {name} would never be measured: set every_n_steps or at_end.")
        self.name, self.prompts, self.category, self.limit = name, prompts, category, limit
        self.images_per_prompt, self.batch_size, self.seed = images_per_prompt, batch_size, seed
        self.every_n_steps, self.at_end, self.detector = every_n_steps, at_end, detector
        self.suite: SuitePrompts | None = None
        self.base: MethodRecord | None = None
        self._measured_step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._prepare(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        if self.at_end:
            self._prepare(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._measured_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: NoiseHypernetModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.every_n_steps is None or step == self._measured_step or step % self.every_n_steps:
            return
        self._measured_step = step
        base, trained = self._measure(trainer, pl_module)
        scalars = self._scalars(base, trained)
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)
        pl_module.log_dict(scalars, on_step=True, on_epoch=False, logger=False)  # to be monitored

    def on_test_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        if not self.at_end:
            return
        base, trained = self._measure(trainer, pl_module)
        for logger in trainer.loggers:
            logger.log_metrics(self._scalars(base, trained), trainer.global_step)
        if not trainer.is_global_zero:
            return
        assert self.suite is not None  # since on_test_start
        summaries = {"base": base.summary(), trained.name: trained.summary(base)}
        for record in (base, trained):
            summaries[record.name]["categories"] = self.suite.by_category(record)
        directory = Path(trainer.default_root_dir)
        path = directory / f"results_{self.name}.json"
        dimensions = torch.Size(pl_module.generator.noise_shape).numel()
        facts = {
            "suite": {
                "name": self.name,
                "prompts": self.prompts,
                "measured": len(self.suite),
                "left_out_as_trained_on": self.suite.n_excluded,
                "images_per_prompt": self.images_per_prompt,
                "seed": self.seed,
            }
        }
        results = write_results(path, directory.parent.name, summaries, dimensions, **facts)
        say(f"\n{suite_table(results)}\n\nresults      {path}")

    def _prepare(self, trainer: L.Trainer, module: NoiseHypernetModule) -> None:
        """Read and check the prompts, once."""
        if self.suite is not None:
            return
        others = [each for each in trainer.callbacks if isinstance(each, PromptSuite) and each is not self]
        if any(other.name == self.name for other in others):
            raise ValueError(f"Two prompt suites are called {self.name}; give one of them another name.")
        data, store = trainer.datamodule, None
        training: Sequence[str] = ()
        if isinstance(data, PromptDataModule):
            training, store = data.training_prompts(), data.store
        else:
            rank_zero_warn(f"What is trained on is not known: {self.name} may have prompts of the training.")
        suite = SuitePrompts.read(self.prompts, self.category, self.limit, training, store)
        module.generator.check_prompts(suite.texts)
        if suite.n_excluded:
            rank_zero_info(f"{suite.n_excluded} prompts of {self.name} are trained on and left out of it")
        evaluation = next((each for each in trainer.callbacks if isinstance(each, Evaluation)), None)
        if self.detector is None and evaluation is not None:
            self.detector = evaluation.detector
        if self.detector is not None and hasattr(self.detector, "to"):
            self.detector.to(trainer.strategy.root_device)
        benchmarks = [] if evaluation is None else evaluation.benchmarks
        self.scorer = Scorer(module.reward, self.detector, feature_extractor_of(module.reward), benchmarks=benchmarks)
        self.suite = suite

    @torch.no_grad()
    def _measure(self, trainer: L.Trainer, module: NoiseHypernetModule) -> tuple[MethodRecord, MethodRecord]:
        """Records of the generator and of the trained model, the same in all processes."""
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            if self.base is None:
                self.base = self._measure_method(trainer, module, module.base_method())
            return self.base, self._measure_method(trainer, module, module.trained_method())
        finally:
            for part, mode in modes:
                part.training = mode

    def _measure_method(self, trainer: L.Trainer, module: NoiseHypernetModule, method: Method) -> MethodRecord:
        assert self.suite is not None  # since the start
        batches = batches_of_rank(self.suite.batches(self.batch_size), trainer.global_rank, trainer.world_size)
        shown = with_progress(batches, f"{self.name}, {method.name}") if trainer.is_global_zero else batches
        with trainer.precision_plugin.forward_context():
            record = measure(method, self.scorer, module.generator, shown, self.images_per_prompt, self.seed)
        return joined_over_processes(record)

    def _scalars(self, base: MethodRecord, trained: MethodRecord) -> dict[str, float]:
        assert self.suite is not None
        scalars: dict[str, float] = {}
        for prefix, record in (("", trained), ("base_", base)):
            scalars |= {f"{self.name}/{prefix}{key}": value for key, value in scalars_of(record.summary()).items()}
            for category, means in self.suite.by_category(record).items():
                for key in ("reward", "held_out_reward"):
                    if means[key] is not None:
                        scalars[f"{self.name}/{_as_key(category)}/{prefix}{key}"] = means[key]
        return scalars


def batches_of_rank(batches: Sequence[B], rank: int, ranks: int) -> list[B]:
    """The batches of one process. They stay whole: an image's last bits depend on the batch that it is made in.

    All processes get the same number, because with sharded weights all take part in each pass; some batches then
    come twice, and count once when the records are joined.
    """
    each = -(-len(batches) // ranks)
    return [batches[place % len(batches)] for place in range(rank, each * ranks, ranks)]


def suites_in(callbacks: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The arguments of those callbacks of a configuration that are prompt suites; see `arguments_of`."""
    return arguments_of(PromptSuite, callbacks)


def arguments_of(kind: type[L.Callback], callbacks: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The arguments of those callbacks of a configuration that are of a class, or of a subclass of it.

    Args:
        kind: the class.
        callbacks: class paths and arguments by name, None for those that were dropped.
    """
    for section in callbacks.values():
        if section is None:
            continue
        try:
            import_class(section["class_path"], kind)
        except ValueError:  # another callback, or a function that makes one
            continue
        yield section.get("init_args", {})


def _as_key(category: str) -> str:
    """A category as loggers take it: "Writing & Symbols" -> "writing_symbols"."""
    return re.sub(r"[^a-z0-9.-]+", "_", category.lower()).strip("_") or "none"
