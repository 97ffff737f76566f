"""`results.json`: what a run or a comparison measured, and on what."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import hn
from hn.files import in_one_step

_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft", "open_clip_torch")


def environment() -> dict[str, Any]:
    """Versions, machine and git commit (with "-dirty" for a changed working tree) of this process.

    `gpu` is the one that the machine has, whether it was used or not; null without one.
    """
    return {
        "python": platform.python_version(),
        "packages": {"hn": hn.__version__, **{name: version(name) for name in _PACKAGES}},
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def write_results(
    path: Path, experiment: str, methods: dict[str, dict[str, Any]], dimensions: int, **facts: Any
) -> dict[str, Any]:
    """Write and return `{"experiment", "environment", <facts>, "methods": {...}}`; the file is replaced in one step.

    Each method gets `penalty_per_dimension` beside its `kl_nats`: the same number divided by the noise dimensions, the
    published code's regulariser. JSON knows no NaN and no infinity: they become null.

    Args:
        path: of the JSON file; its directory is made.
        experiment: name of the experiment.
        methods: the summaries of the `MethodRecord`s.
        dimensions: number of noise dimensions.
        facts: more top-level entries.
    """
    per_dimension = {
        name: None if method["kl_nats"] is None else method["kl_nats"] / dimensions for name, method in methods.items()
    }
    methods = {name: {**method, "penalty_per_dimension": per_dimension[name]} for name, method in methods.items()}
    results = finite({"experiment": experiment, "environment": environment(), **facts, "methods": methods})
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path) as partial:
        partial.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return results


def finite(value: Any) -> Any:
    """`value` with null for every number that is not finite."""
    if isinstance(value, dict):
        return {name: finite(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _git_commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return found.stdout.strip()
