"""The weights that a command of an experiment starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jsonargparse import Namespace

from hn.training.run_directory import (
    RunDirectory,
    find_checkpoint,
    find_weights,
    requeued_checkpoint,
    require_no_run,
)


@dataclass(frozen=True)
class StartingPoint:
    """What a command starts from; nothing but the configuration by default.

    Attributes:
        checkpoint: file of a checkpoint, which Lightning reads.
        weights: folder of a trained network, which takes the place of the module's.
        shown: what is printed of the trained network: its folder, and why that one where it is not a run's.
        untrained: what has to be trained first: run directory and configuration file, by the name of the network.
    """

    checkpoint: str | None = None
    weights: str | None = None
    shown: str | None = None
    untrained: Mapping[str, tuple[RunDirectory, str]] = field(default_factory=dict)


def named_checkpoint(config: Namespace, run: RunDirectory) -> StartingPoint | None:
    """The checkpoint that `--ckpt_path` means; None without that option.

    It is taken out of the configuration, so that the saved one of a continued run is still that of the run.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
    """
    if config.get("ckpt_path") is None:
        return None
    found = StartingPoint(checkpoint=find_checkpoint(run.path, config.ckpt_path))
    config.ckpt_path = None
    return found


def continue_run(config: Namespace, run: RunDirectory, file: str | None) -> StartingPoint:
    """Of a training: a checkpoint if SLURM started the job again, else nothing.

    Raises:
        ValueError: if the run's directory holds a run already.
    """
    checkpoint = requeued_checkpoint(run.path)
    if checkpoint is None:
        require_no_run(run.path)
    return StartingPoint(checkpoint)


def trained_weights(config: Namespace, run: RunDirectory, file: str | None) -> StartingPoint:
    """Of an evaluation: the trained network.

    Raises:
        FileNotFoundError: if there is none.
    """
    weights = find_weights(run)
    return StartingPoint(weights=weights, shown=_shown(weights, run))


def pass_weights(config: Namespace, run: RunDirectory, file: str | None) -> StartingPoint:
    """Of `hn generate`, which loads the trained network itself: the option `hypernet` is filled in.

    Raises:
        FileNotFoundError: if there is none.
    """
    if config.hypernet is not None:
        return StartingPoint(shown=config.hypernet)
    config.hypernet = find_weights(run)
    return StartingPoint(shown=_shown(config.hypernet, run))


def _shown(weights: str, run: RunDirectory) -> str:
    return weights if run.trained() else f"{weights} (run.pretrained: this experiment has no run yet)"
