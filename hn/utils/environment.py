"""Package versions, hardware and git commit, recorded with every result."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import hn

_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft", "open_clip_torch")


def environment() -> dict[str, Any]:
    """Package versions, hardware and git commit (with "-dirty" if the working tree has changes).

    `gpu` is the name of the first GPU, used or not; None without one.
    """
    return {
        "python": platform.python_version(),
        "packages": {"hn": hn.__version__, **{name: version(name) for name in _PACKAGES}},
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return found.stdout.strip()
