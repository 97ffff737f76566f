"""Results as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_TAGS = {
    "single_object": "single",
    "two_object": "two",
    "counting": "count",
    "colors": "colour",
    "position": "position",
    "color_attr": "attrib.",
}


def results_table(results: dict[str, Any], width: int = 150) -> str:
    """A row per method: rewards, GenEval-style scores, cost, the noise-space KL per dimension and fidelity."""
    methods = results["methods"]
    tags = list(dict.fromkeys(tag for m in methods.values() for tag in (m["geneval"] or {}) if tag != "overall"))
    table = Table(
        title=f"{results['experiment']}: {next(iter(methods.values()))['images']} images a method, held-out prompts"
    )
    headers = [
        "method",
        "reward",
        "held-out",
        "GenEval",
        *(_TAGS.get(tag, tag) for tag in tags),
        "s/image",
        "NFE",
        "½f²/dim",
        "fidelity",
    ]
    for header in headers:
        table.add_column(header, justify="left" if header == "method" else "right", no_wrap=True)
    for name, method in methods.items():
        geneval = method["geneval"] or {}
        table.add_row(
            name,
            _number(method["reward"], 3),
            _number(method["held_out_reward"], 3),
            _number(geneval.get("overall"), 3),
            *(_number(geneval.get(tag), 2) for tag in tags),
            _number(method["seconds_per_image"], 4),
            _number(method["nfe"], 0),
            _number(method.get("penalty_per_dimension"), 4),
            _number(method["fidelity"], 2),
        )
    console = Console(width=width, record=True, file=_Nowhere())
    console.print(table)
    for name, method in methods.items():
        if "reward_delta_ci95" in method:
            parts = [f"{label} {_interval(method[key])}" for key, label in _DELTAS.items() if method.get(key)]
            console.print(f"{name} - base, 95 % paired bootstrap: {'; '.join(parts)}", highlight=False)
    return console.export_text()


_DELTAS = {
    "reward_delta_ci95": "reward",
    "held_out_reward_delta_ci95": "held-out reward",
    "geneval_delta_ci95": "GenEval",
}


class _Nowhere:
    def write(self, text: str) -> None: ...

    def flush(self) -> None: ...


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(bounds: list[float]) -> str:
    return f"[{bounds[0]:+.3f}, {bounds[1]:+.3f}]"
