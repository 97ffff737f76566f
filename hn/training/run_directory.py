"""Where a run keeps its files: `runs/<experiment>/<name>/`."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hn.utils.json_files import read_json

CHECKPOINTS = "checkpoints"

NAMED_CHECKPOINTS = ("last", "previous", "best")

WEIGHTS = "hypernet"

RESULTS = "results.json"

SUITE_RESULTS = "results_*.json"

GRIDS = "step_*.png"


@dataclass
class RunDirectory:
    """The directory of one run.

    Args:
        root: all runs' directory.
        experiment: name of the experiment; the configuration file's name if not given.
        name: name of the run; the time if not given. Name an interrupted run, with `--ckpt_path last`, to continue it,
            or a trained one to evaluate that and no other. A comparison is of the trained run of that name, and if
            there is no run of that name, of the experiment's newest.
        pretrained: folder of the trained network that comes with the experiment, for `generate`, `validate`, `test` and
            `predict` where the experiment has no run yet.

    Raises:
        ValueError: if `experiment` or `name` is no name of a single folder.
    """

    root: str = "runs"
    experiment: str | None = None
    name: str | None = None
    pretrained: str | None = None

    def __post_init__(self) -> None:
        self.root = os.path.expanduser(self.root)
        for option, value in (("experiment", self.experiment), ("name", self.name)):
            if value is not None and (value in ("", ".", "..") or Path(value).name != value):
                raise ValueError(f"run.{option} must be the name of one folder, not {value!r}.")

    @property
    def experiment_path(self) -> Path:
        """The directory of the experiment's runs."""
        return Path(self.root) / (self.experiment or "unnamed")

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self.experiment_path / (self.name or timestamp())

    def trained(self, steps: int | None = None) -> Path | None:
        """Folder of trained weights: the named run's, without a name the experiment's newest; None without any.

        Args:
            steps: prefer runs of so many updates; all are looked at if there is none.
        """
        if self.name is not None:
            return self.path / WEIGHTS if (self.path / WEIGHTS).is_dir() else None
        folders = self.experiment_path.glob(f"*/{WEIGHTS}")
        return max(folders, key=lambda folder: _age(folder, steps), default=None)


def find_checkpoint(run: Path, which: str) -> str:
    """The file that `--ckpt_path` means, of a run.

    Args:
        run: the run's directory.
        which: "last", "previous" (the one before it), "best" or the path of a file.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
    """
    if which in NAMED_CHECKPOINTS:
        path = run / CHECKPOINTS / f"{which}.ckpt"
        siblings = sorted(folder.parent.name for folder in run.parent.glob(f"*/{CHECKPOINTS}"))
        known = f" Runs with checkpoints in {run.parent}: {', '.join(siblings)}." if siblings else ""
        advice = f"Name the run with --run.name, or leave --ckpt_path out.{known}"
    else:
        path, advice = Path(which), "Give the path of a .ckpt file, or `last`, `previous` or `best` for the run's."
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}. {advice}")
    return str(path)


def require_no_run(run: Path) -> None:
    """Raises:
    ValueError: if a directory holds a run already, which a training that begins would mix with its own.
    """
    found = [name for name in NAMED_CHECKPOINTS if (run / CHECKPOINTS / f"{name}.ckpt").exists()]
    others = [*run.glob(f"{CHECKPOINTS}/*.ckpt"), *run.glob("hpc_ckpt_*.ckpt"), run / WEIGHTS, run / RESULTS]
    if found:
        raise ValueError(f"{run} holds a run already; continue it with --ckpt_path {found[0]}, or choose another name.")
    if any(path.exists() for path in others):
        raise ValueError(f"{run} holds a run already; choose another name, or remove it.")


def remove_leftovers(run: Path) -> None:
    """Delete what a training that was killed before its first checkpoint has left: curves, grids, results of suites."""
    left = (f"images/{GRIDS}", "images/final.png", "events.out.tfevents.*", SUITE_RESULTS)
    for path in [path for pattern in left for path in run.glob(pattern)]:
        path.unlink(missing_ok=True)


def requeued_checkpoint(run: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """The file that a job continues from which SLURM has put into the queue again: the newest of the run's `last` and
    what Lightning wrote before the job's end; None if this is no such job, or there is no file.

    Args:
        run: the run's directory.
        environment: the process's; SLURM counts in SLURM_RESTART_COUNT how often it has started the job again.
    """
    if int(environment.get("SLURM_RESTART_COUNT") or 0) < 1:
        return None
    files = [path for path in (run / CHECKPOINTS / "last.ckpt", *run.glob("hpc_ckpt_*.ckpt")) if path.exists()]
    return str(max(files, key=lambda path: path.stat().st_mtime)) if files else None


def timestamp() -> str:
    """The local time as a name that sorts."""
    return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def find_weights(run: RunDirectory) -> str:
    """Folder of trained weights: the named run's, else the experiment's newest, else those that come with it.

    Raises:
        FileNotFoundError: if there are none.
    """
    folder = run.trained() or (run.pretrained if run.name is None else None)
    if folder is None and run.name is not None:
        names = sorted(weights.parent.name for weights in run.experiment_path.glob(f"*/{WEIGHTS}"))
        raise FileNotFoundError(
            f"{run.path} has no trained weights ({WEIGHTS}/), which `hn train` writes at its end. Evaluate one of its "
            f"checkpoints with --ckpt_path best or last; trained runs are: {', '.join(names) or 'none'}."
        )
    if folder is None:
        raise FileNotFoundError(
            f"{run.experiment_path} has no trained run: train the experiment first (hn train), or name trained weights "
            "(--hypernet for generate; --ckpt_path, like `best` with --run.name, for validate, test and predict)."
        )
    return str(folder)


def updates_of(run: Path) -> int | None:
    """Number of updates that a run's network was trained for; None if its directory does not say."""
    return _training(run).get("steps")


def _training(run: Path) -> Mapping[str, Any]:
    """What `results.json` of a run says of its training; nothing without that file."""
    results = run / RESULTS
    training = read_json(results).get("training") if results.is_file() else None
    return training if isinstance(training, Mapping) else {}


def _age(weights: Path, steps: int | None) -> tuple[bool, float, float]:
    """By what runs are in order: whether they have so many updates, and when they were trained: as their results say,
    which copies leave as it is, else the folder's time. A file that is damaged says nothing."""
    written = weights.stat().st_mtime
    training: Mapping[str, Any] = {}
    finished = written
    with suppress(OSError, ValueError, TypeError, KeyError):
        training = _training(weights.parent)
        finished = datetime.datetime.fromisoformat(training["finished"]).timestamp()
    return steps is not None and training.get("steps") == steps, finished, written


def require_budget(weights: Path, max_steps: int, option: str) -> None:
    """Refuse weights that were trained for another number of updates than this command's.

    Raises:
        ValueError: says what to do.
    """
    steps = updates_of(weights.parent)
    if steps is not None and max_steps > 0 and steps != max_steps:
        raise ValueError(
            f"{weights.parent} was trained for {steps} updates, but trainer.max_steps is {max_steps}: compare at that "
            f"budget with --trainer.max_steps={steps}, name weights with --{option}, or train again."
        )
