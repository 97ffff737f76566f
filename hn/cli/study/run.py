"""A study's commands: what is left to train and to test of it, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback

from hn.cli.experiment import SettledExperiment, run_experiment
from hn.cli.parsing import UserError, user_errors, without_options
from hn.cli.processes import are_several, require_one_process
from hn.cli.study.command import STUDIES
from hn.cli.study.definition import EXPERIMENT, Study, Variant, as_arguments, read_study
from hn.cli.study.report import Point, write_study
from hn.report.results import write_results
from hn.training.callbacks.evaluation import Evaluation
from hn.training.run_directory import CHECKPOINTS
from hn.utils.class_path import import_class
from hn.utils.config import find_config
from hn.utils.text import changes, differences, say

_OWN = ("run.experiment", "run.name", "ckpt_path")
_SHOWN = 5  # differences that an error lists
# What a training does not depend on.
_ELSEWHERE = ("run", "vars", "comparison", "ckpt_path", "config")


def settings_of(experiment: SettledExperiment) -> dict[str, Any]:
    """All that the results of a command depend on, as `config.yaml` has it."""
    return _without(yaml.safe_load(experiment.parser.dump(experiment.config, skip_unset=False)))


@dataclass(frozen=True)
class Step:
    """A command of a study: a training, or a test of what was trained.

    Attributes:
        variant: which; of a test the trained variant's and the test's together.
        command: the command's name and its options.
        folder: of its results.
        settings: all that these depend on.
        config: file in the folder that has the settings it was started with.
        trained: folder of the training that is tested; None for a training.
    """

    variant: Variant
    command: list[str]
    folder: Path
    settings: Mapping[str, Any]
    config: str
    trained: Path | None = None

    @property
    def results(self) -> Path:
        """There once it is done."""
        return self.folder / "results.json"


def run_study(file: str, others: Sequence[str]) -> None:
    """Train and test the variants of a study that are not there yet, and set the results side by side.

    Args:
        file: the study's YAML file.
        others: options of all commands, from the command line.

    Raises:
        UserError: if the study or one of its variants is wrong, before any of them is trained.
    """
    require_one_process("study")
    with user_errors():
        study = read_study(find_config(file, "study", STUDIES))
    for option in _OWN:
        if without_options(others, [option]) != others:
            raise UserError(f"--{option} is set by the study; leave it out.")
    steps = plan_study(study, others)
    points = []
    for number, step in enumerate(steps, start=1):
        is_there = step.results.is_file()
        if not is_there:
            kind = "training" if step.trained is None else "testing"
            say(f"study {study.name}, {number} of {len(steps)}: {kind} {step.variant.name}", flush=True)
            with _named(step.variant):
                _train(step) if step.trained is None else _test(step)
        if step.trained is None and study.test:
            continue  # the tests are the points
        run = step.trained or step.folder
        points.append(Point.read(step.results, step.variant.labels, step.variant.options, run))
        if not is_there or step is steps[-1]:
            table = write_study(step.folder.parent, study, points)
    folder = steps[-1].folder.parent
    say(f"\n{table}\n\nresults      {folder / 'results.json'}\nfigures      {folder / 'figures'}")


def plan_study(study: Study, others: Sequence[str]) -> list[Step]:
    """All commands of a study in their order, each parsed, its settings those that its folder was begun with.

    Args:
        study: what is varied.
        others: options of all commands, from the command line.

    Raises:
        UserError: if one cannot be parsed, is the same as another, or its folder has results of other settings.
    """
    found = []
    for variant in study.variants:
        training = _step(study, variant, others, "train")
        found.append(training)
        for test in study.tests:
            both = Variant(f"{variant.name},{test.name}", variant.labels + test.labels, variant.options | test.options)
            found.append(_step(study, both, others, "test", training.folder))
    for kind in ("config.yaml", "test_config.yaml"):
        by_settings: dict[str, Variant] = {}
        for step in found:
            if step.config == kind:
                settings = json.dumps([str(step.trained), step.settings], sort_keys=True, default=str)
                same = by_settings.setdefault(settings, step.variant)
                if same is not step.variant:
                    raise UserError(
                        f"{same.name} and {step.variant.name} are the same: nothing depends on "
                        f"{', '.join(k for k, value in step.variant.options.items() if same.options[k] != value)}."
                    )
    return found


def _step(study: Study, variant: Variant, others: Sequence[str], name: str, trained: Path | None = None) -> Step:
    file, options = study.experiments[0], dict(variant.options)
    file = options.pop(EXPERIMENT, file)
    command = [name, "--config", file, *as_arguments(study.options), *others, *as_arguments(options)]
    command += [f"--run.experiment=study_{study.name}", f"--run.name={variant.name}"]
    with _named(variant):
        settled = SettledExperiment(command)
        trainer = settled.config.trainer
        if are_several(trainer.devices, trainer.num_nodes):
            raise UserError(
                "hn study runs in one process and trains on one device: --trainer.devices 1 --trainer.num_nodes 1."
            )
        command += ["--trainer.devices=1", "--trainer.num_nodes=1"]  # where they were left to Lightning
        folder, settings = settled.folder, settings_of(settled)
        callbacks = [each["class_path"] for each in settings["callbacks"].values() if each is not None]
        if not any(issubclass(import_class(path, Callback), Evaluation) for path in callbacks):
            raise UserError(
                "A study needs the callback hn.training.callbacks.evaluation.Evaluation (`callbacks.evaluation`)."
            )
        config = "config.yaml" if name == "train" else f"{name}_config.yaml"
        if (folder / config).is_file():
            before = _without(yaml.safe_load((folder / config).read_text(encoding="utf-8")))
            changed = changes(before, settings)
            if changed:
                raise UserError(
                    f"{folder} was begun with other settings: {differences({'changed': changed}, _SHOWN)}. Copy the "
                    "study's file to another name for these settings, or remove that folder to begin again."
                )
    return Step(variant, command, folder, settings, config, trained)


def _train(step: Step) -> None:
    """Train a variant, from its last checkpoint if it has one."""
    is_begun = (step.folder / CHECKPOINTS / "last.ckpt").exists()
    run_experiment([*step.command, *(["--ckpt_path=last"] if is_begun else [])])


def _test(step: Step) -> None:
    """Test the checkpoint that the training's own test was of."""
    training = json.loads((step.trained / "results.json").read_text(encoding="utf-8"))["training"]
    checkpoint = step.trained / CHECKPOINTS / (training["best_checkpoint"] or "last.ckpt")
    cli = run_experiment([*step.command, f"--ckpt_path={checkpoint}"])
    dimensions = torch.Size(cli.model.generator.noise_shape).numel()
    name = step.folder.parent.name
    summaries = cli.trainer.callback(Evaluation).summaries("test")
    write_results(step.results, name, summaries, dimensions, checkpoint=str(checkpoint))


def _without(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that results depend on; a study's are always of one device."""
    trainer = {name: value for name, value in settings["trainer"].items() if name not in ("devices", "num_nodes")}
    return {name: value for name, value in settings.items() if name not in _ELSEWHERE} | {"trainer": trainer}


@contextmanager
def _named(variant: Variant) -> Iterator[None]:
    """Have a user's errors say which variant they are of."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{variant.name}: {error}") from error
