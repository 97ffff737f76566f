"""Results as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from hn.report.text import as_text, new_table

_TAGS = {
    "single_object": "single",
    "two_object": "two",
    "counting": "count",
    "colors": "color",
    "position": "pos.",
    "color_attr": "attr.",
}
_INTERVALS = {
    "reward": "reward_delta_ci95",
    "held-out reward": "held_out_reward_delta_ci95",
    "GenEval": "geneval_delta_ci95",
}


def results_table(results: dict[str, Any], width: int = 120) -> str:
    """What `write_results` returned, for people.

    A row per method: reward, held-out reward, GenEval-style scores (mean and per tag), seconds and backbone passes per
    image, 1/2 f^2 per noise dimension and the fidelity distance; below, the paired intervals of the differences to the
    base.

    Args:
        results: of `write_results`.
        width: columns of the terminal; a table of six tags needs 115. Methods with names longer than `hypernetwork`
            make it wider, so that no number is cut.
    """
    methods = results["methods"]
    tags = list(dict.fromkeys(tag for m in methods.values() for tag in m["geneval"] or {} if tag != "overall"))
    images = max(method["images"] for method in methods.values())
    table = _table(f"{results['experiment']}: {images} images a method")
    tag_names = [_TAGS.get(tag, tag) for tag in tags]
    for header in ("reward", "held-out", "GenEval", *tag_names, "s/image", "NFE", "½f²/dim", "fidelity"):
        table.add_column(header, justify="right", no_wrap=True)
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
            _number(method["penalty_per_dimension"], 4),
            _number(method["fidelity"], 2),
        )
    width += max(0, max(len(name) for name in methods) - len("hypernetwork"))
    intervals = _intervals(methods)
    return as_text(table, *([] if intervals is None else [intervals]), width=width)


def _intervals(methods: dict[str, dict[str, Any]]) -> Table | None:
    shown = {label: key for label, key in _INTERVALS.items() if any(method.get(key) for method in methods.values())}
    if not shown:
        return None
    table = _table("95 % intervals of the difference to the base")
    for label in shown:
        table.add_column(label, justify="right", no_wrap=True)
    for name, method in methods.items():
        if "reward_delta_ci95" in method:
            table.add_row(name, *(_interval(method[key]) for key in shown.values()))
    return table


def _table(title: str) -> Table:
    table = new_table(title)
    table.add_column("method", no_wrap=True)
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(bounds: list[float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:+.3f} .. {bounds[1]:+.3f}"
