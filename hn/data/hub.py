"""Prompts that are a column of a data set on the Hugging Face Hub: streamed once, and that column alone."""

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
        column: the one with the prompts.
    """

    dataset: str
    revision: str | None
    config: str | None
    split: str
    column: str

    @classmethod
    def parse(cls, address: str) -> HubPrompts:
        """Of an address hf://OWNER/NAME[@REVISION][/CONFIG]/SPLIT/COLUMN.

        Raises:
            ValueError: if it is none.
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
        """Where they are kept, below the folder of fetched sets."""
        version = "" if self.revision is None else f"@{self.revision}"
        parts = [part for part in (self.config, self.split, self.column) if part is not None]
        return Path("hub", f"{self.dataset}{version}", f"{'-'.join(parts)}.jsonl")

    def stream(self, path: Path) -> None:
        """Write the column to a file as `read_prompts` takes it, in one step; what is empty or no text is left out.

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
        """The column's entries as they come over the network.

        Raises:
            DownloadError: if there is no such data set, split or column, or the network fails.
        """
        import datasets  # here and not above: it takes a second, and is an extra

        where = {"path": self.dataset, "name": self.config, "revision": self.revision}
        try:
            builder = datasets.load_dataset_builder(**where)
            # Of Parquet files a column is fetched alone; of other formats everything comes over the network.
            only = {"columns": [self.column]} if hasattr(builder.config, "columns") else {}
            rows = datasets.load_dataset(**where, split=self.split, streaming=True, **only)
            for row in rows.select_columns([self.column]):
                yield row[self.column]
        except Exception as error:  # of its network libraries, file systems and formats, each with errors of its own
            raise DownloadError(f"{self} cannot be read ({type(error).__name__}): {error}") from error

    def __str__(self) -> str:
        version = "" if self.revision is None else f"@{self.revision}"
        config = "" if self.config is None else f"/{self.config}"
        return f"{SCHEME}{self.dataset}{version}{config}/{self.split}/{self.column}"


def is_address(source: PathLike) -> bool:
    """Whether something that is to name prompts is meant as an address on the Hub."""
    return str(source).startswith(SCHEME)
