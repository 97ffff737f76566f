"""What prompts are grouped by: a field of their rows, or the file or set that they are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from hn.utils.text import some_of

FILE = "file"
"""The category of a prompt by the file or set that it comes from, like hpdv2/anime."""

FIELDS = ("tag", "category", "style", "challenge")
"""Fields that are looked for where none is named: GenEval's, DrawBench's and PartiPrompts', and usual ones."""

ALL, NONE = "all", "none"
"""Categories of prompts without one: where no prompt has one, and beside others that have."""


@dataclass(frozen=True)
class Categories:
    """Categories of prompts.

    Attributes:
        names: of each prompt.
        fields: that they are from, `FILE` among them; none where all prompts are one category.
    """

    names: list[str]
    fields: list[str]

    @classmethod
    def by(cls, field: str, rows: Sequence[Mapping[str, Any]], files: Sequence[str] | None) -> Self:
        """Group by one field, the same for all prompts.

        Args:
            field: of the rows, in lower case; or `FILE`.
            rows: of the prompts.
            files: the file or set that each is from; None if that is not known.

        Raises:
            ValueError: if no row has the field, or files are asked for and not known.
        """
        if field == FILE and files is not None:
            return cls(list(files), [FILE])
        if not any(field in row for row in rows):
            known = sorted({name for row in rows for name in row} - {"prompt"})
            raise ValueError(
                f"no prompt has a {field!r} to make categories of; there are {some_of(known) if known else 'no fields'}"
                + (f", and {FILE!r} for the file that a prompt comes from" if files is not None else "")
            )
        return cls([_value(row, field) or NONE for row in rows], [field])

    @classmethod
    def found(cls, rows: Sequence[Mapping[str, Any]], files: Sequence[str] | None) -> Self:
        """Group each prompt by the first of `FIELDS` that its row has, or else, where there are several, by its file.

        Sets that keep their categories in different fields, or in files, can so be grouped together.

        Args:
            rows: of the prompts.
            files: the file or set that each is from; None if that is not known.
        """
        by_file = files is not None and len(set(files)) > 1
        fields = [next((name for name in FIELDS if _value(row, name)), FILE if by_file else None) for row in rows]
        used = [name for name in (*FIELDS, FILE) if name in fields]
        names = []
        for place, field in enumerate(fields):
            if field is None:
                names.append(NONE if used else ALL)
            else:
                names.append(files[place] if field == FILE else _value(rows[place], field))
        return cls(names, used)

    @classmethod
    def of(cls, field: str | None, rows: Sequence[Mapping[str, Any]], files: Sequence[str] | None) -> Self:
        """`by` that field, or `found` if it is None."""
        return cls.found(rows, files) if field is None else cls.by(field, rows, files)


def _value(row: Mapping[str, Any], field: str) -> str:
    """A field of a row as text; empty where it has none."""
    value = row.get(field)
    return "" if value is None else str(value)
