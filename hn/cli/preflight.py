"""Checks of an experiment before weights are loaded: its objects are made on the meta device, and refuse what is wrong.

What cannot be made without weights or devices is looked at as the configuration has it: the trainer and its callbacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import Strategy
from torch import nn

from hn.cli.fetching import prompt_options
from hn.cli.instances import generator_on_meta, instantiate, module_on_meta
from hn.data.module import PromptDataModule
from hn.evaluation.generate import ImageRequest, check_choice
from hn.training.callbacks.evaluation import Evaluation
from hn.training.module import NoiseHypernetModule
from hn.training.strategy import ShardedStrategy, check_optimizer
from hn.training.trainer import check_monitors
from hn.utils.class_path import import_class


def check_model(sections: Mapping[str, Any]) -> NoiseHypernetModule | None:
    """Make the data module, and the module without weights.

    Args:
        sections: the configuration.

    Returns:
        The module; None if it cannot be made without weights.

    Raises:
        UserError, ValueError, OSError: as the constructors, if something is wrong or missing.
    """
    if prompt_options(sections.get("data")):
        instantiate("data", PromptDataModule, sections["data"])
    model = dict(sections["model"])
    if _arguments(model["reward"]).get("cache"):  # whose files may still have to be written
        model["reward"] = {**model["reward"], "init_args": {**model["reward"]["init_args"], "cache": False}}
    generator = generator_on_meta(model["generator"])
    return None if generator is None else module_on_meta(model, generator)


def check_training(sections: Mapping[str, Any], module: NoiseHypernetModule | None) -> None:
    """Refuse an optimiser, strategy or precision that the module cannot be trained with.

    Args:
        sections: the configuration.
        module: without weights; None if it cannot be made so, and is checked when it is made.

    Raises:
        ValueError: says what to do.
    """
    if module is None:
        return
    trainer = sections["trainer"]
    module.check_training(trainer.get("precision"))
    # Fused optimisers refuse tensors on the meta device, so not of the module's own parameters.
    optimizer = module.optimizer_factory([nn.Parameter(torch.zeros(1))])
    strategy = trainer.get("strategy")
    if isinstance(strategy, Mapping) and issubclass(import_class(strategy["class_path"], Strategy), ShardedStrategy):
        check_optimizer(optimizer)


def check_fit(sections: Mapping[str, Any], module: NoiseHypernetModule | None) -> None:
    """Of `hn train` and `hn fit`: as `check_training`, and that the scores that callbacks monitor will be measured.

    Raises:
        ValueError: says what to do.
    """
    check_training(sections, module)
    watching = (ModelCheckpoint, EarlyStopping)
    monitors = [(k, own.get("monitor")) for k, own in _callbacks(sections) if issubclass(k, watching)]
    check_monitors(monitors, is_evaluated(sections), bool(_arguments(sections["model"]["reward"]).get("held_out")))


def check_request(sections: Mapping[str, Any], module: NoiseHypernetModule | None) -> None:
    """Of `hn generate`: what is asked for.

    Raises:
        ValueError: says what to do.
    """
    prompts = sections["prompt"]
    names = ("count", "seed", "steps", "batch_size", "upscale", "best_of", "keep_candidates")
    options = {name: sections[name] for name in names}
    request = ImageRequest([prompts] if isinstance(prompts, str) else list(prompts), **options)
    if module is not None:
        request.check(module.generator)
        check_choice(request, module.reward)


def is_evaluated(sections: Mapping[str, Any]) -> bool:
    """Whether there is an `Evaluation` callback."""
    return any(issubclass(kind, Evaluation) for kind, _ in _callbacks(sections))


def _arguments(section: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The `init_args` of a section with a class path."""
    return (section or {}).get("init_args") or {}


def _callbacks(sections: Mapping[str, Any]) -> Iterator[tuple[type[Callback], Mapping[str, Any]]]:
    """Class and arguments of each callback, those of the trainer's own option among them."""
    others = sections["trainer"].get("callbacks") or []
    for section in [*sections["callbacks"].values(), *(others if isinstance(others, list) else [others])]:
        if section is not None:
            yield import_class(section["class_path"], Callback), _arguments(section)
