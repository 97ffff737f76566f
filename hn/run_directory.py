"""Where a run keeps its files: `runs/<experiment>/<name>/`."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path


@dataclass
class RunDirectory:
    """The directory of one run.

    Args:
        root: all runs' directory.
        experiment: name of the experiment; the configuration file's name if not given.
        name: name of the run; the time if not given. Name an interrupted run, with `--ckpt_path last`, to continue it.
        pretrained: hypernetwork that `hn generate` takes where the experiment has no run yet.
    """

    root: str = "runs"
    experiment: str | None = None
    name: str | None = None
    pretrained: str | None = None

    def experiment_of(self, config: str | None) -> str:
        """Name of the experiment of a configuration file."""
        return self.experiment or (Path(config).stem if config else "unnamed")

    def path(self, config: str | None) -> Path:
        """The run's directory, for the experiment's configuration file if there is one."""
        return Path(self.root) / self.experiment_of(config) / (self.name or self.timestamp())

    @staticmethod
    def timestamp() -> str:
        """The local time as a name that sorts."""
        return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def latest(root: str, experiment: str, holding: str, beside: str | None = None) -> Path | None:
    """The newest run of an experiment that has the file `holding`, and beside it another file or folder."""
    folder = Path(root, experiment)
    runs = {folder / file.relative_to(folder).parts[0]: file for file in folder.glob(f"*/{holding}")}
    complete = [run for run in runs if beside is None or (run / beside).exists()]
    return max(complete, key=lambda run: runs[run].stat().st_mtime, default=None)
