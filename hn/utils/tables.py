"""Text tables for the terminal."""

import io

from rich import box
from rich.console import Console
from rich.table import Table

from hn.utils.text import printable


def new_table(title: str | None = None) -> Table:
    """An empty table in the style that all tables of hn have."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def as_text(*tables: Table, width: int = 120) -> str:
    """Tables as plain text, one below the other, without colours, control characters or trailing spaces.

    Texts are shown as they are: words in brackets are no markup.

    Args:
        tables: in this order.
        width: most characters of a line.
    """
    console = Console(width=width, file=io.StringIO(), record=True, highlight=False, markup=False, emoji=False)
    for table in tables:
        console.print(table)
    return "\n".join(printable(line).rstrip() for line in console.export_text().split("\n")).strip("\n")
