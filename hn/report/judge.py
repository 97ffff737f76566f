"""A judge's means as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from hn.evaluation.judges import ScoreGroup
from hn.report.text import as_text, new_table


def judge_table(groups: Sequence[ScoreGroup], width: int = 120) -> str:
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
