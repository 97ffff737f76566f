"""Rows on disk: as a sequence that reads a row when it is asked for, so that a set may be larger than memory."""

from __future__ import annotations

import json
import logging
import mmap
import shutil
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from hn.data.formats import Row
from hn.utils.files import atomic_folder, remove_temporary_files

log = logging.getLogger(__name__)

ROWS, STARTS, ABOUT = "rows.jsonl", "starts.npy", "about.json"


class MappedRows(Sequence[Row]):
    """Rows in a folder: one JSON object a line, where each line starts, and facts about them. The first two are mapped
    into memory, which the system may take back at any time.

    Args:
        folder: as `open_or_write` leaves it.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not whole.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        size = (folder / ROWS).stat().st_size if (folder / ROWS).is_file() else None
        if size != self.about["bytes"]:
            raise ValueError(f"{folder / ROWS} has {size} bytes instead of {self.about['bytes']}")
        self._starts = np.load(folder / STARTS, mmap_mode="r")
        if len(self._starts) != self.about["rows"] + 1:
            raise ValueError(f"{folder / STARTS} is not that of {self.about['rows']} rows")
        with (folder / ROWS).open("rb") as file:
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""

    @classmethod
    def open_or_write(cls, folder: Path, rows: Callable[[], Iterable[Row]], about: Callable[[], dict[str, Any]]) -> Any:
        """The rows of a folder, which is written if it is not there or not whole; of several processes one does so.

        Args:
            folder: of these rows and no others.
            rows: gives them; not called if they are there.
            about: facts in JSON's types, asked for when all rows were given.

        Raises:
            OSError: if it cannot be written, the disk being full for one; says what to do. Nothing half-written stays.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.exists():
                try:
                    return cls(folder)
                except (OSError, ValueError, KeyError) as error:
                    log.warning("%s is written anew: %s", folder, error)
                    shutil.rmtree(folder)
            remove_temporary_files(folder.parent, folder.name)  # of a process that was killed
            try:
                with atomic_folder(folder) as temporary:
                    cls._write(temporary, rows(), about)
            except OSError as error:
                raise OSError(
                    f"The prompts cannot be kept in {folder}: {error.strerror or error}. Nothing half-written is left: "
                    "make room, or choose another folder (prompts_folder of the data module, or HN_PROMPTS in the "
                    "environment)."
                ) from error
            return cls(folder)

    @staticmethod
    def _write(folder: Path, rows: Iterable[Row], about: Callable[[], dict[str, Any]]) -> None:
        starts = array("q", [0])
        with (folder / ROWS).open("wb") as file:
            for row in rows:
                starts.append(starts[-1] + file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n"))
        np.save(folder / STARTS, np.frombuffer(starts, dtype=np.int64))
        facts = {**about(), "rows": len(starts) - 1, "bytes": starts[-1]}
        (folder / ABOUT).write_text(json.dumps(facts))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return json.loads(self._lines[int(self._starts[index]) : int(self._starts[index + 1])])

    def __reduce__(self) -> tuple[type[MappedRows], tuple[Path]]:
        return type(self), (self.folder,)  # mapped anew in another process
