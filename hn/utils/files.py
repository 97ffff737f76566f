"""Writing files in one step: they are there in whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def in_one_step(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Give the path of a file to write, which takes the place of `path` when the block ends, unless it fails.

    Args:
        path: of the file.
        partial: that path, in the same folder; processes that may write the same file at once need one each.
    """
    partial = path.with_suffix(".partial") if partial is None else partial
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any], partial: Path | None = None) -> None:
    """Write a JSON file in one step; `partial` as `in_one_step` takes it."""
    with in_one_step(path, partial) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def unused_directory(path: Path) -> Path:
    """Make and return `path`, or `path_2`, `path_3` and so on if it is there already and holds something."""
    number, candidate = 1, path
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            if candidate.is_dir() and not any(candidate.iterdir()):
                return candidate
            number += 1
            candidate = path.with_name(f"{path.name}_{number}")


def require_unused(path: Path) -> None:
    """Raises:
    ValueError: if `path` is a file, or a folder that holds something.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} is there already and is not written over; choose another --output, or remove it.")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears in its place when it is whole and on the disk."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], partial: Path | None = None) -> None:
    """Write a CSV file in one step: file, prompt, method where rows have one, and a column for each score.

    Args:
        path: of the file.
        rows: at least one, with `file`, `prompt`, perhaps `method`, and `scores` by name; None becomes empty.
        partial: as `in_one_step` takes it.
    """
    own = [name for name in ("file", "prompt", "method") if any(name in row for row in rows)]
    rewards = list(rows[0]["scores"])
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*own, *rewards])
    for row in rows:
        writer.writerow([*(row.get(name) for name in own), *(row["scores"][name] for name in rewards)])
    with in_one_step(path, partial) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")
