"""`hn compare`: checks, the trained networks that it measures, and training those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from hn.cli.fetching import prompt_options
from hn.cli.instances import instantiate
from hn.cli.parsing import UserError, without_options
from hn.cli.preflight import is_evaluated
from hn.cli.processes import require_one_device
from hn.cli.starting_point import StartingPoint
from hn.data.prompts import PromptDataset
from hn.data.store import PromptStore
from hn.evaluation.categories import Categories
from hn.evaluation.comparison.options import Comparison
from hn.hypernets import LoraFinetune
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.suite import arguments_of
from hn.training.compare import check_comparison
from hn.training.module import NoiseHypernetModule
from hn.training.run_directory import RunDirectory, require_budget
from hn.utils.class_path import import_class
from hn.utils.hub import locate

WEIGHTS_CONFIG = "adapter_config.json"  # hypernetworks and fine-tunes alike have it


def check_compare(sections: Mapping[str, Any], module: NoiseHypernetModule | None) -> None:
    """Refuse options of a comparison that cannot work, and numbers of steps that the generator cannot do.

    Raises:
        UserError, ValueError: says what to do.
    """
    network = import_class(sections["model"]["hypernet"]["class_path"], nn.Module)
    check_comparison(is_evaluated(sections), issubclass(network, LoraFinetune))
    comparison = instantiate("comparison", Comparison, sections["comparison"])
    if module is not None:
        for steps in comparison.more_steps(module.generator.steps):
            module.generator.check_steps(steps)


def check_category(sections: Mapping[str, Any], store: PromptStore) -> None:
    """Whether the prompts of the test can be grouped as `comparison.category` says, before anything is trained.

    Args:
        sections: the configuration.
        store: where named sets are kept.

    Raises:
        FileNotFoundError, ValueError, DownloadError: as `PromptDataset` and `Categories.by`.
    """
    category, prompts = sections["comparison"]["category"], prompt_options(sections.get("data"))
    if category is not None and prompts.get("test"):
        dataset = PromptDataset(prompts["test"], prompts.get("limit_test"), store=store)
        Categories.by(category, dataset.rows, dataset.files)


def find_compared(config: Namespace, run: RunDirectory, file: str | None) -> StartingPoint:
    """Fill in the options `hypernet` and `finetune` with weights that are there; the others are `untrained`.

    Raises:
        UserError: if the fine-tune is the experiment itself.
        FileNotFoundError: if weights that are named are not there.
        ValueError: if weights that are there had another budget than this command's.
    """
    finetune = config.comparison.finetune
    if finetune is not None and Path(finetune).stem == run.experiment:
        raise UserError(f"{finetune} is the comparison's fine-tune; compare the experiment that names it.")
    needed = {"hypernet": (RunDirectory(run.root, run.experiment), file)}
    if finetune is not None:
        needed["finetune"] = (RunDirectory(run.root, Path(finetune).stem), finetune)
    untrained = {}
    for option, (newest, own_file) in needed.items():
        if config[option] is not None:
            locate(config[option], WEIGHTS_CONFIG)
        elif newest.trained() is None:
            untrained[option] = newest, own_file
        else:
            config[option] = str(newest.trained())
            require_budget(newest.trained(), config.trainer.max_steps, option)
    return StartingPoint(untrained=untrained)


def train_missing(
    config: Namespace, start: StartingPoint, arguments: Sequence[str], run_experiment: Callable[[Sequence[str]], Any]
) -> None:
    """Train what a comparison needs and does not have, with the comparison's own options.

    Args:
        config: the comparison's; the options `hypernet` and `finetune` are filled in.
        start: what is `untrained`.
        arguments: options of the comparison's command line.
        run_experiment: runs a command line.

    Raises:
        UserError: if several devices would train.
    """
    own = ("config", "c", "hypernet", "finetune", "run.name", "run.experiment")
    overrides = without_options(arguments, own)
    for _, file in start.untrained.values():
        require_one_device(file, config.trainer.devices, config.trainer.num_nodes)
    overrides += ["--trainer.devices=1", "--trainer.num_nodes=1"]  # where they were left to Lightning
    for option, (newest, file) in start.untrained.items():
        print(f"{newest.experiment_path} has no trained run yet: training {file} first.")
        run_experiment(["train", "--config", file, "--run.experiment", newest.experiment, *overrides])
        config[option] = str(newest.trained())


def comparison_settings(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """What the measurements depend on: where a run is kept, how it was trained and how it reports changes no score."""
    settings = yaml.safe_load(parser.dump(config))
    return {
        "comparison": settings["comparison"],
        "model": settings["model"],
        "data": settings["data"],
        "evaluation": [*arguments_of(Evaluation, settings.get("callbacks") or {})],
        "precision": settings.get("trainer", {}).get("precision"),
    }
