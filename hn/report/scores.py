"""Scores of images as a CSV file, and their summary as a table for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hn.files import in_one_step
from hn.report.text import as_text, new_table


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file in one step: file, prompt, method where rows have one, and a column for each reward.

    Args:
        path: of the file.
        rows: at least one, with `file`, `prompt`, perhaps `method`, and `scores` by reward; None becomes empty.
    """
    own = [name for name in ("file", "prompt", "method") if any(name in row for row in rows)]
    rewards = list(rows[0]["scores"])
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*own, *rewards])
    for row in rows:
        writer.writerow([*(row.get(name) for name in own), *(row["scores"][name] for name in rewards)])
    with in_one_step(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")


def scores_table(summary: Mapping[str, Mapping[str, Mapping[str, float | None]]], title: str, width: int = 120) -> str:
    """Mean and standard deviation: a row for each reward, a column for each method.

    Args:
        summary: `mean` and `std` by reward by method, and of all images under "all", which are shown where there
            are not several methods.
        title: of the table.
        width: columns of the terminal.
    """
    methods = [name for name in summary if name != "all"]
    columns = {f"{name}: mean ± std": name for name in methods} if len(methods) > 1 else {"mean ± std": "all"}
    table = new_table(title)
    table.add_column("reward", no_wrap=True)
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for reward in summary["all"]:
        table.add_row(reward, *(_cell(**summary[name][reward]) for name in columns.values()))
    return as_text(table, width=width)


def _cell(mean: float | None, std: float | None) -> str:
    return " ± ".join("-" if value is None else f"{value:.4f}" for value in (mean, std))
