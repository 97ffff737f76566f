"""`results.json`: what a run or a comparison measured, and on what."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft", "hn")


def environment() -> dict[str, Any]:
    """Versions, device and git commit of this process."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
        "git_commit": commit.stdout.strip() or None,
    }


def _processor() -> str:
    return f"CPU, {os.cpu_count()} cores, {platform.machine()}"


def write_results(
    path: Path, experiment: str, methods: dict[str, dict], dimensions: int, **facts: Any
) -> dict[str, Any]:
    """Write and return `{"experiment", "environment", "methods": {...}}`; the file is replaced in one step.

    Args:
        path: of the JSON file.
        experiment: name of the experiment.
        methods: the summaries of the `MethodRecord`s.
        dimensions: of the noise, for the KL per dimension.
        facts: more top-level entries.
    """
    for method in methods.values():
        kl = method["kl_nats"]
        method["penalty_per_dimension"] = None if kl is None else kl / dimensions
    results = {"experiment": experiment, "environment": environment(), **facts, "methods": methods}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n")
    partial.replace(path)
    return results
