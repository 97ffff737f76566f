"""Results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from hn.evaluation.benchmarks.base import ScoreGroup
from hn.evaluation.benchmarks.geneval_results import GenevalSummary
from hn.utils.tables import as_text, new_table
from hn.utils.text import shortened

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
    image, 1/2 f^2 per noise dimension and the CMMD; below, the paired intervals of the differences to the
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
    for header in ("reward", "held-out", "GenEval", *tag_names, "s/image", "NFE", "½f²/dim", "CMMD"):
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
            _number(method["cmmd"], 2),
        )
    width += max(0, max(len(name) for name in methods) - len("hypernetwork"))
    intervals = _intervals(methods)
    return as_text(table, *([] if intervals is None else [intervals]), width=width) + _left_out(methods)


def _left_out(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each method with scores that are not finite: how many means leave out, and of which prompts."""
    lines = []
    for name, method in methods.items():
        if found := method.get("not_finite"):
            counts = (f"{score} {own['left_out']} (n {own['n']})" for score, own in found["scores"].items())
            more = ", ..." if len(found["prompts"]) > 3 else ""
            prompts = ", ".join(shortened(prompt) for prompt in found["prompts"][:3])
            lines.append(f"\n{name}: not finite and left out of means: {', '.join(counts)}; of {prompts}{more}")
    return "".join(lines)


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


def geneval_table(summary: GenevalSummary, width: int = 120) -> str:
    """Share of correct images of each tag, and overall: the mean of the tags."""
    title = f"{summary.total_images} images of {summary.total_prompts} prompts"
    table = new_table(title)
    table.add_column("tag", no_wrap=True)
    for header in ("GenEval", "correct", "images"):
        table.add_column(header, justify="right", no_wrap=True)
    for task in summary.tasks:
        table.add_row(task.tag, f"{task.mean:.4f}", str(task.n_correct), str(task.n))
    table.add_section()
    correct = sum(task.n_correct for task in summary.tasks)
    table.add_row("overall", f"{summary.overall:.4f}", str(correct), str(summary.total_images))
    return as_text(table, width=width)


def benchmark_table(groups: Sequence[ScoreGroup], width: int = 120) -> str:
    """One row for each group; a score that it does not have is left empty."""
    names = list(dict.fromkeys(name for group in groups for name in group.scores))
    table = new_table()
    table.add_column("", no_wrap=True)
    for header in (*names, "n"):
        table.add_column(header, justify="right", no_wrap=True)
    for group in groups:
        scores = (f"{group.scores[name]:.4f}" if name in group.scores else "" for name in names)
        table.add_row(group.name, *scores, str(group.n))
    return as_text(table, width=width)


_SCORES = {"reward": "reward", "held_out_reward": "held-out"}


def suite_table(results: dict[str, Any], width: int = 120) -> str:
    """Rewards and held-out rewards of every method on each category, and on all prompts.

    Args:
        results: of a `results_<name>.json`.
        width: columns of the terminal; names of categories are cut where it is too small.
    """
    suite, methods = results["suite"], results["methods"]
    shown = {
        key: label for key, label in _SCORES.items() if any(method[key] is not None for method in methods.values())
    }
    table = new_table(f"{suite['name']}: {suite['measured']} prompts, {suite['images_per_prompt']} images each")
    table.add_column("category", overflow="ellipsis", no_wrap=True)
    table.add_column("prompts", justify="right", no_wrap=True)
    for label in shown.values():
        for name in methods:
            table.add_column(f"{label}\n{name}", justify="right", no_wrap=True)
    categories = next(iter(methods.values()))["categories"]
    for category, facts in categories.items():
        rows = [methods[name]["categories"][category] for name in methods]
        table.add_row(category, str(facts["prompts"]), *(_number(row[key], 3) for key in shown for row in rows))
    everything = (_number(method[key], 3) for key in shown for method in methods.values())
    table.add_row("all", str(suite["measured"]), *everything)
    return as_text(table, width=width) + _left_out(methods)


def scores_table(summary: Mapping[str, Mapping[str, Mapping[str, float | None]]], title: str, width: int = 120) -> str:
    """Mean and standard deviation: a row for each score, a column for each method.

    Args:
        summary: `mean` and `std` by score by method, with `n` where some scores are left out, and of all images under
            "all", which are shown where there are not several methods.
        title: of the table.
        width: columns of the terminal.
    """
    methods = [name for name in summary if name != "all"]
    columns = {f"{name}: mean ± std": name for name in methods} if len(methods) > 1 else {"mean ± std": "all"}
    table = new_table(title)
    table.add_column("metric", no_wrap=True)
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for score in summary["all"]:
        table.add_row(score, *(_cell(**summary[name].get(score, {})) for name in columns.values()))
    return as_text(table, width=width)


def _cell(mean: float | None = None, std: float | None = None, n: float | None = None) -> str:
    shown = " ± ".join("-" if value is None else f"{value:.4f}" for value in (mean, std))
    return shown if n is None else f"{shown} (n {n})"
