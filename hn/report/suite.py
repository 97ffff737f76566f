"""What a prompt suite measured, as a table for the terminal."""

from __future__ import annotations

from typing import Any

from hn.report.text import as_text, new_table

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
        table.add_row(category, str(facts["prompts"]), *(_number(row[key]) for key in shown for row in rows))
    everything = (_number(method[key]) for key in shown for method in methods.values())
    table.add_row("all", str(suite["measured"]), *everything)
    return as_text(table, width=width)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
