"""`results.json`: the results of a run or a comparison, with the environment they were measured in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hn.utils.environment import environment
from hn.utils.files import write_json


def write_results(
    path: Path, experiment: str, methods: dict[str, dict[str, Any]], dimensions: int, **facts: Any
) -> dict[str, Any]:
    """Write and return `{"experiment", "environment", <facts>, "methods": {...}}`; the file is replaced atomically.

    Each method gets `penalty_per_dimension`: its `kl_nats` divided by the number of noise dimensions, which is the
    regulariser of the published code. NaN and infinite numbers become null, since JSON has none.

    Args:
        path: of the JSON file; its folder is created.
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
    write_json(path, results, durable=True)
    return results


def finite(value: Any) -> Any:
    """`value` with None for NaN and infinite numbers, also in nested values."""
    if isinstance(value, dict):
        return {name: finite(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
