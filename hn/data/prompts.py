"""Data sets of prompts."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hn.data.formats import Row, read_prompts
from hn.data.hub import HubPrompts
from hn.data.manifest import PromptFile
from hn.data.mix import Part
from hn.data.sources import Source, Sources, parse_sources
from hn.data.store import PromptStore
from hn.data.unsafe import is_unsafe


class Prompt(TypedDict):
    """One prompt, with its row in the file as `metadata` and its position in the data set as `index`."""

    prompt: str
    metadata: dict[str, Any]
    index: int


class PromptBatch(TypedDict):
    """B prompts."""

    prompt: list[str]
    metadata: list[dict[str, Any]]
    index: Tensor  # [B] int64


def normalised(prompt: str) -> str:
    """The prompt without case, repeated spaces and a final full stop; equal for prompts that count as the same."""
    return " ".join(prompt.casefold().split()).rstrip(". ")


class PromptDataset(Dataset[Prompt]):
    """The prompts of files, named sets and data sets on the Hub, in order.

    Args:
        paths: a file for `read_prompts`, the name of a set, or an address hf://... (see `parse_sources`); a list of
            these; or a mapping from these to weights. Sets that are not on this machine are downloaded. For training,
            weights are those of `Part`; otherwise they are whole numbers of repetitions.
        limit: keep only this many prompts: evenly spaced ones for "val" and "test", else the first ones.
        exclude: prompts to remove (before `limit`), compared as `normalised`.
        purpose: "train", "val", "test" or "predict"; selects the split of a named set (see `Manifest.choose`) and the
            meaning of weights.
        deduplicate: keep only the first of equal prompts (compared as `normalised`). None does so for named sets and
            data sets on the Hub, except sets whose repeats are intended.
        filter_unsafe: remove prompts with unsafe words (see `is_unsafe`). None does so for the named sets that the
            manifest marks.
        store: the folder of named sets; the user's by default.

    Attributes:
        rows: the rows that were kept.
        fingerprint: SHA-256 of all prompts in their order.
        files: for each row, the name of its set or the path of its file.
        parts: for each source, the range of its rows, with its weight.
        n_excluded: number of rows removed because of `exclude`.
        n_repeated: number of rows removed as repetitions.
        n_unsafe: number of rows removed for unsafe words.

    Raises:
        FileNotFoundError, ValueError: as `read_prompts`, `parse_sources` and `PromptStore.require`; also if `limit` is
            below 1, a weight that counts repetitions is no whole number, or no rows are left.
        DownloadError: if a named set cannot be downloaded.
    """

    def __init__(
        self,
        paths: Sources,
        limit: int | None = None,
        exclude: Iterable[str] = (),
        *,
        purpose: str = "test",
        deduplicate: bool | None = False,
        filter_unsafe: bool | None = None,
        store: PromptStore | None = None,
    ):
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or None for all prompts, not {limit}")
        self.sources = parse_sources(paths, purpose)
        self.purpose, self.deduplicate, self.filter_unsafe = purpose, deduplicate, filter_unsafe
        self.n_excluded = self.n_repeated = self.n_unsafe = 0
        self.files: list[str] = []
        self.parts: list[Part] = []
        self.store = store or PromptStore()
        self.rows: list[Row] = []
        self._read({normalised(prompt) for prompt in exclude}, limit)
        self.fingerprint = hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()
        if not self.rows:
            names = ", ".join(source.name for source in self.sources)
            raise ValueError(f"{names}: every prompt is excluded or unsafe, none is left")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prompt:
        row = self.rows[index]
        return Prompt(prompt=row["prompt"], metadata=row, index=index)

    @property
    def prompts(self) -> list[str]:
        """All prompts, in order."""
        return [row["prompt"] for row in self.rows]

    @property
    def epoch_length(self) -> int:
        """Number of rows in an epoch of training; without weights, the number of all rows."""
        return sum(part.length for part in self.parts)

    def _read(self, unwanted: set[str], limit: int | None) -> None:
        """Fill `rows`, `files` and `parts`, and count the rows that are removed."""
        if self.purpose in ("val", "test") and limit is not None:
            self._read(unwanted, None)
            self._thin_out(limit)
            return
        seen: set[str] = set()
        for source in self.sources:
            start = len(self.rows)
            for name, row in self._repeated(source, self._of_source(source, unwanted, seen)):
                if limit is not None and len(self.rows) == limit:
                    break
                self.files.append(name)
                self.rows.append(row)
            if len(self.rows) > start:
                self.parts.append(Part(start, len(self.rows), source.weight if self.purpose == "train" else 1.0))

    def _thin_out(self, limit: int) -> None:
        """Keep so many rows, evenly spaced, so that a set that is sorted by categories keeps some of each."""
        total = len(self.rows)
        kept = [k * total // limit for k in range(limit)] if limit < total else [*range(total)]
        self.rows, self.files = [self.rows[k] for k in kept], [self.files[k] for k in kept]
        self.parts = [Part(0, len(kept), 1.0)] if kept else []

    def _of_source(self, source: Source, unwanted: set[str], seen: set[str]) -> Iterator[tuple[str, Row]]:
        """The rows of a source that are kept, each with the name of its file; adds all its prompts to `seen`."""
        for file in source.files:
            is_named = isinstance(file, PromptFile)
            name = file.name if is_named else str(file)
            filtered = is_named and file.filter_unsafe if self.filter_unsafe is None else self.filter_unsafe
            for row in read_prompts(self._path(file)):
                key = normalised(row["prompt"])
                if filtered and is_unsafe(row["prompt"]):
                    self.n_unsafe += 1
                elif key in unwanted:
                    self.n_excluded += 1
                elif self._is_unique(file) and key in seen:
                    self.n_repeated += 1
                else:
                    yield name, row
                seen.add(key)

    def _path(self, file: Path | PromptFile | HubPrompts) -> Path:
        if isinstance(file, HubPrompts):
            return self.store.stream(file)
        return self.store.fetch(file) if isinstance(file, PromptFile) else file

    def _is_unique(self, file: Path | PromptFile | HubPrompts) -> bool:
        """Whether repeated prompts of a file are removed."""
        if self.deduplicate is not None:
            return self.deduplicate
        return not isinstance(file, Path) and not getattr(file, "keep_repeats", False)

    def _repeated(self, source: Source, rows: Iterator[tuple[str, Row]]) -> Iterable[tuple[str, Row]]:
        if self.purpose == "train":
            return rows
        if source.weight != int(source.weight):
            raise ValueError(
                f"{source.name}: a weight is for training; elsewhere it counts repetitions, not {source.weight}"
            )
        return list(rows) * int(source.weight)


def collate_prompts(prompts: Sequence[Prompt]) -> PromptBatch:
    """Batch prompts without turning their metadata into tensors."""
    return PromptBatch(
        prompt=[prompt["prompt"] for prompt in prompts],
        metadata=[prompt["metadata"] for prompt in prompts],
        index=torch.tensor([prompt["index"] for prompt in prompts], dtype=torch.int64),
    )
