"""Where a run keeps its files: `runs/<experiment>/<name>/`."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

CHECKPOINTS = "checkpoints"
WEIGHTS = "hypernet"


@dataclass
class RunDirectory:
    """The directory of one run.

    Args:
        root: all runs' directory.
        experiment: name of the experiment; the configuration file's name if not given.
        name: name of the run; the time if not given. Name an interrupted run, with `--ckpt_path last`, to continue it,
            or a trained one to evaluate that and no other.
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

    def trained(self) -> Path | None:
        """Folder of trained weights: the named run's, without a name the experiment's newest; None without any."""
        if self.name is not None:
            return self.path / WEIGHTS if (self.path / WEIGHTS).is_dir() else None
        folders = self.experiment_path.glob(f"*/{WEIGHTS}")
        return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def find_checkpoint(run: Path, which: str) -> str:
    """The file that `--ckpt_path` means, of a run.

    Args:
        run: the run's directory.
        which: "last", "best" or the path of a file.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
    """
    if which in ("last", "best"):
        path = run / CHECKPOINTS / f"{which}.ckpt"
        siblings = sorted(folder.parent.name for folder in run.parent.glob(f"*/{CHECKPOINTS}"))
        known = f" Runs with checkpoints in {run.parent}: {', '.join(siblings)}." if siblings else ""
        advice = f"Name the run with --run.name, or leave --ckpt_path out.{known}"
    else:
        path, advice = Path(which), "Give the path of a .ckpt file, or `last` or `best` for those of the run."
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}. {advice}")
    return str(path)


def timestamp() -> str:
    """The local time as a name that sorts."""
    return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
