"""Tables for the terminal, as text."""

import io

from rich import box
from rich.console import Console
from rich.table import Table


def new_table(title: str | None = None) -> Table:
    """A table in the one style of all, its title on the left."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def as_text(*tables: Table, width: int = 120) -> str:
    """Tables one below the other, without colours or trailing spaces.

    Args:
        tables: in their order.
        width: columns of the terminal.
    """
    console = Console(width=width, file=io.StringIO(), record=True, highlight=False)
    for table in tables:
        console.print(table)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()).strip("\n")
