"""Checks of an experiment before weights are loaded: its objects are made on the meta device, and refuse what is wrong.

What cannot be made without weights or devices is looked at as the configuration has it: the trainer and its callbacks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import Strategy

from hn.cli.fetching import prompt_options
from hn.cli.instances import generator_on_meta, instantiate, module_on_meta
from hn.cli.options import silently
from hn.cli.parsing import UserError
from hn.data.module import PromptDataModule
from hn.evaluation.generate import ImageRequest, check_choice
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.images import ImageGrid
from hn.training.callbacks.suite import suites_in
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
    if generator is None:
        return None
    generator.check_steps(generator.steps)
    return module_on_meta(model, generator)


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
    try:
        optimizer = module.probe_optimizer()
    except TypeError as error:  # of `lr: null`, which optimisers compare with numbers
        raise ValueError(f"model.optimizer cannot be made with these arguments: {error}.") from error
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
    _check_monitored([monitor for _, monitor in monitors if monitor is not None], sections)


def _check_monitored(monitors: Sequence[str], sections: Mapping[str, Any]) -> None:
    """Refuse monitors of scores that nothing logs, unless callbacks of your own may.

    Raises:
        ValueError: names what may have been meant.
    """
    if any(not kind.__module__.startswith(("hn.", "lightning.")) for kind, _ in _callbacks(sections)):
        return
    reward = _arguments(sections["model"]["reward"])
    trained = [f"reward_{name}" for name in reward.get("rewards") or {}]
    held_out = [f"held_out_{name}" for name in reward.get("held_out") or {}]
    of_training = ["loss", "reward", "regulariser", "kl_nats", "skipped_updates", *trained]
    of_images = ["reward", "held_out_reward", "kl_nats", "cmmd", "diversity", "geneval", *trained, *held_out]
    known = [*(f"train/{name}" for name in of_training), *(f"val/{name}" for name in of_images)]
    kinds = ("base", "geneval", "noise", "benchmark", "fid", "kid", "cmmd", "diversity")
    open_ended = (*(f"val/{kind}_" for kind in kinds), "lr-")
    open_ended += tuple(f"{suite.get('name')}/" for suite in suites_in(sections["callbacks"]))
    for monitor in monitors:
        if monitor not in known and not monitor.startswith(open_ended):
            nearest = difflib.get_close_matches(monitor, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}."
            raise ValueError(f"A callback monitors {monitor}, which is not logged; {hint}")


def check_callbacks(sections: Mapping[str, Any], module: NoiseHypernetModule | None) -> None:
    """Make those callbacks that need no networks, and have the generator look at the prompts of image grids.

    Args:
        sections: the configuration.
        module: without weights; None if it cannot be made so.

    Raises:
        UserError, ValueError: as their constructors, or if the generator cannot take a prompt.
    """
    for name, section in sections["callbacks"].items():
        if section is None or any(isinstance(each, Mapping) for each in _arguments(section).values()):
            continue
        try:
            callback = instantiate("callback", Callback, section)
            if isinstance(callback, ImageGrid) and module is not None:
                module.generator.check_prompts(callback.prompts)
        except (UserError, ValueError) as error:
            raise ValueError(f"callbacks.{name}: {error}") from error


def check_data(stages: Sequence[str], sections: Mapping[str, Any], module: NoiseHypernetModule | None) -> None:
    """Read the prompts of a command, which have been fetched, and have generator and rewards look at them.

    Args:
        stages: of Lightning, whose prompts are needed.
        sections: the configuration.
        module: without weights; None if it cannot be made so.

    Raises:
        FileNotFoundError, ValueError: as `PromptDataModule.setup`, or if there are too few training prompts, or one
            that generator or rewards cannot take.
    """
    section = sections.get("data")
    if section is None or import_class(section["class_path"], LightningDataModule) is not PromptDataModule:
        return  # a class of your own may rely on what Lightning calls before
    data = instantiate("data", PromptDataModule, section)
    with silently():
        for stage in stages:
            data.setup(stage)
        if "fit" in stages:
            data.train_dataloader()
    if module is not None:
        prompts = [prompt for dataset in data.datasets.values() for prompt in dataset.prompts]
        module.generator.check_prompts(prompts)
        module.reward.check_prompts(prompts)


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
        if section is not None and not isinstance(section, Mapping):
            raise ValueError(f"trainer.callbacks has {section!r}, which is no callback with a class_path.")
        if section is not None:
            yield import_class(section["class_path"], Callback), _arguments(section)
