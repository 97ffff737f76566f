"""GenEval's summary as a table for the terminal."""

from __future__ import annotations

from hn.evaluation.geneval_results import GenevalSummary
from hn.report.text import as_text, new_table


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
