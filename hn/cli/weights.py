"""Trained weights that a verb needs, found in the directories of runs."""

from __future__ import annotations

import json
from pathlib import Path

from hn.cli.parsing import UserError
from hn.run_directory import WEIGHTS, RunDirectory


def find_weights(run: RunDirectory) -> str:
    """Folder of trained weights: the named run's, else the experiment's newest, else those that come with it.

    Raises:
        UserError: if there are none.
    """
    folder = run.trained() or (run.pretrained if run.name is None else None)
    if folder is None and run.name is not None:
        names = sorted(weights.parent.name for weights in run.experiment_path.glob(f"*/{WEIGHTS}"))
        raise UserError(
            f"{run.path} has no trained weights ({WEIGHTS}/), which `hn train` writes at its end. Evaluate one of its "
            f"checkpoints with --ckpt_path best or last; trained runs are: {', '.join(names) or 'none'}."
        )
    if folder is None:
        raise UserError(
            f"{run.experiment_path} has no trained run: train the experiment first (hn train), or name trained weights "
            "(--hypernet for generate; --ckpt_path, like `best` with --run.name, for validate, test and predict)."
        )
    return str(folder)


def require_budget(weights: Path, max_steps: int, option: str) -> None:
    """Refuse weights that were trained for another number of updates than this command's.

    Raises:
        ValueError: says what to do.
    """
    results = weights.parent / "results.json"
    steps = json.loads(results.read_text())["training"]["steps"] if results.is_file() else max_steps
    if max_steps > 0 and steps != max_steps:
        raise ValueError(
            f"{weights.parent} was trained for {steps} updates, but trainer.max_steps is {max_steps}: compare at that "
            f"budget with --trainer.max_steps={steps}, name weights with --{option}, or train again."
        )
