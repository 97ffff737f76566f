"""Prompts in a column of a data set on the Hugging Face Hub: only that column is downloaded, once."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hn.data.download import DownloadError
from hn.data.formats import PathLike
from hn.utils.files import atomic_write, remove_temporary_files

log = logging.getLogger(__name__)

SCHEME = "hf://"
_NAME = r"[\w.-]+"
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@({_NAME}))?(?:/({_NAME}))?/({_NAME})/([^/]+)")


@dataclass(frozen=True)
class HubPrompts:
    """A column of a data set on the Hub.

    Attributes:
        dataset: its id.
        revision: branch, tag or commit; the main branch if none is given.
        config: one of the data set's configurations; its only or default one if none is given.
        split: like "train".
        column: name of the column of prompts.
    """

    dataset: str
    revision: str | None
    config: str | None
    split: str
    column: str

    @classmethod
    def parse(cls, address: str) -> HubPrompts:
        """Parse an address hf://OWNER/NAME[@REVISION][/CONFIG]/SPLIT/COLUMN.

        Raises:
            ValueError: if the address is malformed.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise ValueError(
                f"{address}: prompts on the Hub are addressed as hf://OWNER/NAME[@REVISION][/CONFIG]/SPLIT/COLUMN, "
                "like hf://yuvalkirstain/pickapic_v2_no_images/train/caption"
            )
        return cls(*match.groups())

    @property
    def path(self) -> Path:
        """Path of their file, relative to the folder of downloaded sets."""
        version = "" if self.revision is None else f"@{self.revision}"
        parts = [part for part in (self.config, self.split, self.column) if part is not None]
        return Path("hub", f"{self.dataset}{version}", f"{'-'.join(parts)}.jsonl")

    def stream(self, path: Path) -> None:
        """Download the column to a `.jsonl` file, atomically; entries that are empty or no text are skipped.

        Raises:
            DownloadError: if `datasets` is not installed, or the data set cannot be read; says what to do.
            OSError: if the file cannot be written.
        """
        if importlib.util.find_spec("datasets") is None:
            raise DownloadError(
                f"{self}: data sets of the Hub are read by the package datasets, which is not installed: "
                "pip install 'hn[streaming]'"
            )
        log.info("Streaming %s to %s", self, path)
        kept = skipped = 0
        remove_temporary_files(path.parent, path.name)  # of a process that was killed: data sets are large
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for prompt in self._entries():
                if isinstance(prompt, str) and prompt.strip():
                    file.write(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n")
                    kept += 1
                else:
                    skipped += 1
            if not kept:
                raise DownloadError(f"{self} holds no prompts ({skipped} entries are empty or no text)")
        log.info("%d prompts of %s are here, %d entries are empty or no text", kept, self, skipped)

    def _entries(self) -> Iterator[Any]:
        """The entries of the column, streamed over the network.

        Raises:
            DownloadError: if there is no such data set, split or column, or the network fails.
        """
        import datasets  # optional package, and the import takes a second

        where = {"path": self.dataset, "name": self.config, "revision": self.revision}
        try:
            builder = datasets.load_dataset_builder(**where)
            # Single columns can be downloaded from Parquet files only; other formats are downloaded completely.
            only = {"columns": [self.column]} if hasattr(builder.config, "columns") else {}
            rows = datasets.load_dataset(**where, split=self.split, streaming=True, **only)
            for row in rows.select_columns([self.column]):
                yield row[self.column]
        except Exception as error:  # network, file systems and formats raise many types of errors
            raise DownloadError(f"{self} cannot be read ({type(error).__name__}): {error}") from error

    def __str__(self) -> str:
        version = "" if self.revision is None else f"@{self.revision}"
        config = "" if self.config is None else f"/{self.config}"
        return f"{SCHEME}{self.dataset}{version}{config}/{self.split}/{self.column}"


def is_address(source: PathLike) -> bool:
    """Whether a source of prompts is an address on the Hub."""
    return str(source).startswith(SCHEME)
