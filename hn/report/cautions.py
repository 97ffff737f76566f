"""What keeps results that stand side by side from being comparable, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TOLERANCE = 1e-3  # relative; the same base on another machine differs by rounding
_BASE = "val/base_"

Curves = Mapping[str, Mapping[str, Mapping[str, list[Any]]]]
"""By run and scalar: `step` and `value`."""


def cautions(results: Mapping[str, Any]) -> list[str]:
    """Sentences on unequal budgets and validations of the networks in a comparison's `results.json`."""
    updates = results.get("updates") or {}
    trained = {name: updates.get(name) for name, path in (results.get("weights") or {}).items() if path is not None}
    return [*unequal_budgets(trained), *unequal_validations(results.get("curves") or {})]


def unequal_budgets(updates: Mapping[str, int | None]) -> list[str]:
    """A sentence if networks were trained for different numbers of updates; None stands for one that is not known."""
    if len({*updates.values()}) < 2:
        return []
    listed = (f"{name} {'not known' if count is None else count}" for name, count in updates.items())
    return [f"The networks were trained for unequal numbers of updates: {', '.join(listed)}."]


def unequal_validations(curves: Curves) -> list[str]:
    """A sentence if runs measured different values of the base, which is the same generator in all of them."""
    for scalar in dict.fromkeys(name for curve in curves.values() for name in curve if name.startswith(_BASE)):
        first = {name: _first(curve[scalar]["value"]) for name, curve in curves.items() if scalar in curve}
        found = {name: value for name, value in first.items() if value is not None}
        if found and max(found.values()) - min(found.values()) > _TOLERANCE * max(map(abs, found.values())):
            listed = ", ".join(f"{value:.3g} in that of {name}" for name, value in found.items())
            what = scalar.removeprefix(_BASE).replace("_", " ")
            return [
                f"The runs were validated on different prompts or with different settings (the base's {what} is "
                f"{listed}): their curves cannot be compared."
            ]
    return []


def _first(values: list[Any]) -> Any:
    return next((value for value in values if value is not None), None)
