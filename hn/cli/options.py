"""Options of an experiment that cannot mean anything, refused before anything is made: numbers, trainer, callbacks."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.callbacks import Callback

from hn.training.callbacks.suite import suites_in
from hn.training.trainer import ExperimentTrainer

LARGEST_SEED = 2**32 - 1
"""What NumPy takes."""

_LEAST = {
    "accumulate_grad_batches": 1,
    "num_nodes": 1,
    "log_every_n_steps": 0,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1,
    "gradient_clip_val": 0,
    "min_steps": 0,
    "min_epochs": 0,
}
"""The least value of the trainer's options; None means that there is no limit, or Lightning's default."""

_MUST_HAVE_BATCHES = {
    "train": ("limit_train_batches", "limit_test_batches"),
    "fit": ("limit_train_batches",),
    "validate": ("limit_val_batches",),
    "test": ("limit_test_batches",),
    "predict": ("limit_predict_batches",),
}

_LIBRARIES = ("hn.", "torch.", "lightning.")


def check_options(command: str, sections: Mapping[str, Any]) -> None:
    """Check the numbers of a configuration, and its trainer and callbacks, as far as nothing has to be loaded for it.

    Args:
        command: its name.
        sections: the configuration.

    Raises:
        ValueError: names the option, and what it can be.
        MisconfigurationException: of Lightning, likewise.
    """
    for name, value in _not_finite(sections, ""):
        raise ValueError(f"{name} must be a finite number, not {value}.")
    _check_callbacks(sections)
    _check_trainer(command, sections["trainer"], sections["model"])


def check_seed(seed: int) -> None:
    """Raises:
    ValueError: if a seed is none that all libraries take.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(
            f"seed_everything must be from 0 to {LARGEST_SEED} (2^32 - 1), not {seed}; choose another one."
        )


def _not_finite(value: Any, name: str, class_path: str = "hn.") -> Iterator[tuple[str, float]]:
    """NaN anywhere, and infinities but those in classes of your own, with the names of their options."""
    if isinstance(value, Mapping):
        class_path = value.get("class_path") or class_path
        for key, inner in value.items():
            yield from _not_finite(inner, f"{name}.{key}" if name else str(key), str(class_path))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _not_finite(inner, f"{name}[{number}]", class_path)
    elif isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and class_path.startswith(_LIBRARIES))):
        yield name, value


def _check_callbacks(sections: Mapping[str, Any]) -> None:
    callbacks = sections["callbacks"]
    if callbacks is None:
        raise ValueError("callbacks must be a mapping of names, not null; to drop one, set its name to null.")
    nothing = f"{Callback.__module__}.{Callback.__qualname__}", "lightning.Callback", "lightning.pytorch.Callback"
    for name, section in callbacks.items():
        if section is not None and section["class_path"] in nothing:
            raise ValueError(f"callbacks.{name} does nothing: give its class as `class_path`, or drop it (null).")
    names = Counter(suite.get("name") for suite in suites_in(callbacks))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"Two prompt suites are called {twice[0]}; give one of them another name.")


def _check_trainer(command: str, options: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    for name, least in _LEAST.items():
        if options.get(name) is not None and options[name] < least:
            raise ValueError(f"trainer.{name} must be at least {least}, not {options[name]}.")
    for name in _MUST_HAVE_BATCHES.get(command, ()):
        if options.get(name) == 0:
            raise ValueError(f"trainer.{name} 0 leaves no batch for hn {command}: give at least 1, or leave it out.")
    if options.get("overfit_batches"):
        raise ValueError(
            "trainer.overfit_batches would replace the order of the prompts: train on few of them with "
            "--data.init_args.limit_train instead."
        )
    if command in ("train", "fit"):
        _check_length(options)
        check_schedule(options.get("max_steps"), model.get("warmup_steps") or 0, model.get("decay_steps"))
    with silently():
        _make_trainer(options)


def _check_length(options: Mapping[str, Any]) -> None:
    """How long a training is, and when it is validated."""
    steps, interval = options.get("max_steps"), options.get("val_check_interval")
    if steps is not None and steps < 1 and steps != -1:
        raise ValueError(f"trainer.max_steps must be at least 1, or -1 for no limit, not {steps}.")
    if isinstance(interval, int | float) and interval <= 0:
        raise ValueError(
            f"trainer.val_check_interval must be at least 1 batch, not {interval}; to leave validations out, use "
            "--trainer.limit_val_batches 0 and callbacks that monitor none of their scores."
        )
    if isinstance(interval, float) and interval % 1 and options.get("check_val_every_n_epoch") is None:
        raise ValueError(f"trainer.val_check_interval must be a whole number of batches, not {interval}.")


def check_schedule(max_steps: int | None, warmup_steps: int, decay_steps: int | None) -> None:
    """Refuse a learning rate that is to be zero before it has risen, unless the training ends before that.

    Raises:
        ValueError: names both options.
    """
    if decay_steps is None or not 1 <= decay_steps < warmup_steps or 0 < (max_steps or -1) <= decay_steps:
        return
    raise ValueError(
        f"The learning rate cannot fall to zero at update {decay_steps} (decay_steps) and rise until update "
        f"{warmup_steps} (warmup_steps): give a smaller model.warmup_steps, or a larger model.decay_steps."
    )


def _make_trainer(options: Mapping[str, Any]) -> None:
    """Have Lightning check the options that are plain values; what it makes of them is dropped.

    Raises:
        ValueError: if it fails with an error that is not meant for users.
    """
    left_out = (
        "logger",
        "callbacks",
        "enable_checkpointing",
        "enable_progress_bar",
        "enable_model_summary",
        "profiler",
    )
    plain = {
        name: value
        for name, value in options.items()
        if name not in left_out and value is not None and not isinstance(value, Mapping | list)
    }
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    try:
        ExperimentTrainer(**plain, **quiet)
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"Lightning makes no trainer of these options ({type(error).__name__}): {error}") from error


@contextmanager
def silently() -> Iterator[None]:
    """Without warnings and information, which come again when the work is done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
