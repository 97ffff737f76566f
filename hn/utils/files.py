"""Writing files and folders atomically: a reader finds the old content or the new one, never a part of it."""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from hn.utils.lock import LOCK, InUseError, locked

_TEMPORARY = ".partial"
_FORMULA = re.compile("'*[=+\\-@\t\n\uff1d\uff0b\uff0d\uff20]")
"""How a text begins that a spreadsheet takes for a formula; behind apostrophes, one of which is taken off again."""


@contextmanager
def atomic_write(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces the file `path` when the block ends without an error.

    If the block raises, the temporary file is deleted and `path` is left as it was. The temporary path is in the same
    folder and different for each call, so several processes may write the same file at once: the last one wins.

    Args:
        path: the file; its folder must exist.
        durable: flush the content to the disk before it replaces the file, so that it survives a power failure.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        if durable:
            _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, keep_others: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill, which replaces the folder `path` when the block ends without an error.

    If the block raises, the temporary folder is deleted and `path` is left as it was.

    Args:
        path: the folder; its parents are created.
        keep_others: where `path` exists, keep the files in it that are not written now. The new files then replace
            theirs one by one, the largest first: weights before the small files that describe them.
        durable: as in `atomic_write`.
    """
    path = Path(path).resolve()
    merges = keep_others and path.is_dir()
    temporary = _temporary_name(path / path.name if merges else path)  # inside, for `path` may be a mount point
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if durable:
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
        if merges:
            for file in sorted(temporary.iterdir(), key=lambda file: file.stat().st_size, reverse=True):
                file.replace(path / file.name)
        else:
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_temporary_files(folder: Path, name: str | None = None) -> None:
    """Delete what processes that were killed inside `atomic_write` or `atomic_folder` left. Nobody may be writing now.

    Args:
        folder: where to look.
        name: of the file or folder that was written; all of them if not given.
    """
    for left in folder.glob(f"{'*' if name is None else glob.escape(name)}.*{_TEMPORARY}"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, *, durable: bool = False) -> None:
    """Write a UTF-8 text file atomically, with its line ends as they are; `durable` as in `atomic_write`."""
    with atomic_write(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, content: Any, *, durable: bool = False) -> None:
    """Write an indented JSON file atomically; `durable` as in `atomic_write`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", durable=durable)


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically.

    Args:
        path: the file.
        rows: values by column. The columns are all names of all rows, in the order of their first appearance; a name
            that a row lacks, None and numbers that are not finite give an empty cell. Texts that a spreadsheet would
            take for a formula get an apostrophe before them, which `csv_text` takes off. Line ends become newlines.
    """
    text = io.StringIO(newline="")
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[_cell(name) for name in columns], *([_cell(row.get(name)) for name in columns] for row in rows)])
    write_text(path, text.getvalue())


def csv_text(cell: str) -> str:
    """The text that `write_csv` made this cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def expand_home(path: str | Path) -> Path:
    """The path with a home folder in the place of `~` or `~name`.

    Raises:
        ValueError: if there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{path}: there is no home folder of this user to put in the place of ~; set HOME, or give the whole path."
        ) from None


def cache_folder(name: str) -> Path:
    """A folder of hn in the user's cache folder (XDG_CACHE_HOME or ~/.cache); among temporary files for a user without
    a home folder."""
    try:
        return expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hn" / name
    except ValueError:
        return Path(tempfile.gettempdir(), f"hn-{os.getuid()}", name)


@contextmanager
def claimed_directory(path: Path) -> Iterator[Path]:
    """Create and yield `path`, or `path_2`, `path_3` and so on where it holds something, or another process has claimed
    it; nobody else gets it until the block ends."""
    number, candidate = 1, path
    while True:
        if not candidate.exists() or (candidate.is_dir() and not any(candidate.iterdir())):
            with ExitStack() as stack:
                try:
                    stack.enter_context(locked(candidate, is_folder=True))
                except InUseError:
                    pass
                else:
                    if [file.name for file in candidate.iterdir()] == [LOCK]:  # and nobody came and went meanwhile
                        yield candidate
                        return
        number += 1
        candidate = path.with_name(f"{path.name}_{number}")


def require_unused(path: Path) -> None:
    """Raises:
    ValueError: if `path` is a file, or a folder that is not empty.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} exists already and is not overwritten; choose another --output, or remove it.")


def _temporary_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid4().hex[:12]}{_TEMPORARY}")


def _flush(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        value = value.replace("\r\n", "\n").replace("\r", "\n")  # the csv module does not quote a text for \r
        return f"'{value}" if _FORMULA.match(value) else value
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
