"""`hn compare`: checks, the trained networks that it measures, and training those that are missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from omegaconf import OmegaConf
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
from hn.evaluation.comparison.options import FINETUNE, HYPERNETWORK, Comparison
from hn.generators.base import Generator
from hn.hypernets import LoraFinetune
from hn.hypernets.trained import TRAINED_FILES
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.suite import arguments_of
from hn.training.compare import check_comparison, compared_methods, load_networks
from hn.training.module import NoiseHypernetModule
from hn.training.run_directory import RunDirectory, find_weights, require_budget
from hn.utils.class_path import class_path, import_class
from hn.utils.config import ENDINGS, find_config, read_config
from hn.utils.hub import locate
from hn.utils.text import say

_OPTIONS = {HYPERNETWORK: "hypernet", FINETUNE: "finetune"}
"""Options that take weights of the networks that belong to the experiment; they have its budget."""
_OF_COMPARE = ("config", "c", "hypernet", "finetune", "run.name", "run.experiment", "run.root")
_SHARED = re.compile(
    r"trainer\.(accelerator|devices|num_nodes|enable_progress_bar|enable_model_summary)|"
    r"data\.(init_args\.)?(num_workers|prompts_folder)|model\.generator\..+|trust[_-]remote[_-]code"
)
"""Options that hold for every experiment of a comparison."""


def check_compare(sections: Mapping[str, Any], module: NoiseHypernetModule | None) -> None:
    """Refuse options of a comparison that cannot work, and numbers of steps that the generator cannot do.

    Raises:
        UserError, ValueError: says what to do.
    """
    network = import_class(sections["model"]["hypernet"]["class_path"], nn.Module)
    check_comparison(is_evaluated(sections), issubclass(network, LoraFinetune))
    comparison = instantiate("comparison", Comparison, sections["comparison"])
    comparison.check_starts()
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
    """Fill in the weights of all trained networks that are there; the others are `untrained`.

    Those of the experiment are the option `hypernet`: of the run that `run.name` names, if there is one of that name,
    else of the newest. In `comparison.finetune` and `comparison.trained` a folder takes the place of an experiment
    whose newest run has one; of the fine-tune's runs it is the newest with this command's budget, if there is one. The
    classes of the experiments' networks are the user's, and trusted.

    Raises:
        UserError: if one of these is the experiment itself.
        FileNotFoundError: if an experiment's file or weights that are named are not there.
        ValueError: if a file is wrong, or weights of the experiment or its fine-tune had another budget than this
            command's.
    """
    if config.finetune is not None:
        config.comparison.finetune = config.finetune
    experiments = {}
    if config.hypernet is not None:
        locate(config.hypernet, TRAINED_FILES)
    elif run.name is not None and run.path.is_dir():
        config.hypernet = find_weights(run)
        require_budget(Path(config.hypernet), config.trainer.max_steps, _OPTIONS[HYPERNETWORK])
    else:
        experiments[HYPERNETWORK] = RunDirectory(run.root, run.experiment), file
    for name, source in _networks(config).items():
        is_weights = name == FINETUNE and config.finetune is not None
        own_file = None if is_weights else file_of_experiment(source)
        if own_file is None:
            locate(source, TRAINED_FILES)
            continue
        config.trust_remote_code = [*config.trust_remote_code, *class_of_experiment(read_config(own_file))]
        experiments[name] = RunDirectory(run.root, Path(own_file).stem), own_file
        if experiments[name][0].experiment == run.experiment:
            raise UserError(
                f"The comparison's {name} is {source}, the experiment itself, whose row is {HYPERNETWORK}: drop it "
                "(null), or compare the experiment that names it."
            )
    untrained = {}
    for name, (newest, own_file) in experiments.items():
        weights = newest.trained(config.trainer.max_steps if name == FINETUNE else None)
        if weights is None:
            untrained[name] = newest, own_file
            continue
        if name in _OPTIONS:  # others may take fewer updates or more; `results.json` says how many each had
            require_budget(weights, config.trainer.max_steps, _OPTIONS[name])
        _fill_in(config, name, weights)
    return StartingPoint(untrained=untrained)


def file_of_experiment(source: str) -> str | None:
    """The file of the experiment that an entry of `comparison.trained` means; None if it means weights.

    A path that ends in .yaml is an experiment's, and so is a name without a folder, unless there is such a folder.

    Raises:
        FileNotFoundError: if there is no experiment of that name; lists those that there are.
    """
    if Path(source).suffix in ENDINGS or (source and Path(source).name == source and not Path(source).is_dir()):
        return find_config(source, "experiment", "experiments")
    return None


def check_networks(
    config: Namespace, untrained: Mapping[str, NoiseHypernetModule | None], module: NoiseHypernetModule | None
) -> None:
    """Refuse trained networks that do not fit the generator, and searches that cannot start from theirs.

    Args:
        config: the comparison's, with the weights that are there filled in.
        untrained: modules, without weights, of the experiments that are trained first; None if one cannot be made so.
        module: the comparison's, likewise; then nothing is checked before it is made.

    Raises:
        FileNotFoundError, ValueError: as `load_networks` and `compared_methods`, or if an experiment is for another
            generator.
    """
    if module is None or None in untrained.values():
        return
    for name, other in untrained.items():
        require_same_generator(name, other.generator, module.generator)
    comparison = instantiate("comparison", Comparison, config.comparison.as_dict())
    own = {} if config.hypernet is None else {HYPERNETWORK: config.hypernet}
    weights = {name: source for name, source in {**own, **comparison.networks}.items() if name not in untrained}
    with torch.device("meta"):
        trusted = [*config.trust_remote_code, class_path(type(module.hypernet))]
        networks = load_networks(weights, module.generator, trusted)
    networks = {HYPERNETWORK: module.hypernet, **networks, **{name: each.hypernet for name, each in untrained.items()}}
    compared_methods(module, comparison, networks)


def require_same_generator(name: str, other: Generator, own: Generator) -> None:
    """Refuse to train a network for a comparison of which it cannot be part.

    Args:
        name: of the network.
        other: the generator that it would be trained on.
        own: the comparison's.

    Raises:
        ValueError: says in what they differ.
    """
    differences = [
        f"{what} is {getattr(other, what)} there and {getattr(own, what)} here"
        for what in ("name", "revision", "noise_shape")
        if getattr(other, what) != getattr(own, what)
    ]
    if differences:
        raise ValueError(
            f"The comparison's {name} would be trained on another generator: {'; '.join(differences)}. Leave it out, "
            "or name weights that were trained on this one."
        )


def training_commands(config: Namespace, start: StartingPoint, arguments: Sequence[str]) -> dict[str, list[str]]:
    """The command lines that train what a comparison needs and does not have, by the network's name.

    Args:
        config: the comparison's.
        start: what is `untrained`.
        arguments: options of the comparison's command line.

    Raises:
        UserError: if several devices would train.
    """
    commands = {}
    for name, (newest, file) in start.untrained.items():
        require_one_device(file, config.trainer.devices, config.trainer.num_nodes)
        # The experiment and its fine-tune are trained as this command says: with its rank, its reward, its budget. For
        # another experiment such options mean something else or nothing. It has its own, and takes over where runs and
        # prompts are kept, what it is computed on, and the generator, which all networks must have in common.
        overrides = without_options(arguments, _OF_COMPARE) if name in _OPTIONS else shared_options(arguments)
        commands[name] = [
            "train", "--config", file, *overrides, "--run.experiment", newest.experiment, "--run.root", newest.root,
            "--trainer.devices=1", "--trainer.num_nodes=1",  # where they were left to Lightning
        ]  # fmt: skip
    return commands


def shared_options(arguments: Sequence[str]) -> list[str]:
    """Those options of a comparison's command line that hold for every experiment; see `training_commands`."""
    given = [word.partition("=")[0].lstrip("-") for word in arguments if word.startswith(("--", "-c"))]
    return without_options(arguments, [name for name in given if _SHARED.fullmatch(name) is None])


def train_missing(
    config: Namespace, start: StartingPoint, arguments: Sequence[str], run_experiment: Callable[[Sequence[str]], Any]
) -> None:
    """Train what a comparison needs and does not have, and fill in its weights.

    Args:
        config: the comparison's.
        start: what is `untrained`.
        arguments: options of the comparison's command line.
        run_experiment: runs a command line.

    Raises:
        UserError: if several devices would train.
    """
    for name, command in training_commands(config, start, arguments).items():
        newest, file = start.untrained[name]
        if newest.trained() is None:  # it may be that of another network too
            say(f"{newest.experiment_path} has no trained run yet: training {file} first.")
            run_experiment(command)
        _fill_in(config, name, newest.trained())


def class_of_experiment(experiment: Mapping[str, Any]) -> list[str]:
    """The class path of the network that an experiment's file trains, where it has one."""
    sections = OmegaConf.create({"model": experiment.get("model") or {}})
    path = OmegaConf.select(sections, "model.hypernet.class_path", throw_on_resolution_failure=False)
    return [path] if isinstance(path, str) else []


def _networks(config: Namespace) -> dict[str, str]:
    """As `Comparison.networks`."""
    named = {FINETUNE: config.comparison.finetune, **config.comparison.trained}
    return {name: source for name, source in named.items() if source is not None}


def _fill_in(config: Namespace, name: str, weights: Path | None) -> None:
    """Put the folder of an experiment's weights into the configuration."""
    folder = str(weights)
    if name == HYPERNETWORK:
        config.hypernet = folder
    elif name == FINETUNE:
        config.comparison.finetune = folder
    else:
        config.comparison.trained[name] = folder


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
