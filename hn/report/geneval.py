"""GenEval's summary as a table for the terminal."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console
from rich.table import Table

from hn.evaluation.geneval_results import GenevalSummary


def geneval_table(summary: GenevalSummary, width: int = 120) -> str:
    """Share of correct images of each tag, and overall: the mean of the tags."""
    title = f"{summary.total_images} images of {summary.total_prompts} prompts"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("tag", no_wrap=True)
    for header in ("GenEval", "correct", "images"):
        table.add_column(header, justify="right", no_wrap=True)
    for task in summary.tasks:
        table.add_row(task.tag, f"{task.mean:.4f}", str(task.n_correct), str(task.n))
    table.add_section()
    correct = sum(task.n_correct for task in summary.tasks)
    table.add_row("overall", f"{summary.overall:.4f}", str(correct), str(summary.total_images))
    console = Console(width=width, file=io.StringIO(), record=True, highlight=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()).strip("\n")
