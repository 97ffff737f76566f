"""The manifest of named prompt sets: descriptions, addresses and checksums."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from hn.utils.bundled import bundled

MANIFEST_FILE = bundled("data/prompts/manifest.yaml")
CHECKSUMS = ("sha256", "git_blob", "git_tree")

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Version:
    """One published version of a file. A `filtered` one lacks rows that the publisher considers unsafe.

    `prompts` is the number of rows, `unique` the number of distinct prompts, `bytes` the size; None if not known.
    """

    checksum_kind: str
    checksum: str
    prompts: int | None
    unique: int | None
    bytes: int | None
    filtered: bool = False


@dataclass(frozen=True)
class PromptFile:
    """One file of a set.

    Attributes:
        name: the set's name and the file's own, like "t2i_compbench/color/train".
        path: relative to the folder of bundled or of downloaded sets.
        split: "train", "val" or "test", or a part of one of these, like "val_seen".
        versions: accepted versions, the published one first.
        urls: addresses in the order to try; none for bundled files.
        archive_folder: if the addresses are those of zip archives, the folder to extract, relative to their top folder.
        bundled: whether it comes with hn.
        filter_unsafe: whether prompts with unsafe words are removed by default.
        keep_repeats: whether repeated prompts are intended, and kept by default.
    """

    name: str
    path: Path
    split: str
    versions: tuple[Version, ...]
    urls: tuple[str, ...]
    archive_folder: str | None
    bundled: bool
    filter_unsafe: bool
    keep_repeats: bool


@dataclass(frozen=True)
class PromptSet:
    """A named set of prompts: its entry in the manifest, and its files by name."""

    name: str
    about: str
    home: str | None
    hf: str | None
    licence: str
    bundled: bool
    filter_unsafe: bool
    schema: str
    quirks: str
    urls: tuple[str, ...]
    files: dict[str, PromptFile]
    keep_repeats: bool = False
    obtain: str | None = None  # instructions for a set that cannot be downloaded


@dataclass(frozen=True)
class Mix:
    """Sets to train on together, with their weights (see `hn.data.mix.Part`)."""

    name: str
    about: str
    parts: dict[str, float]


class Manifest:
    """All named sets and mixes.

    A name is one of
        SET: all files of a set, like "geneval";
        SET/FILE: one file, like "t2i_compbench/color/train";
        SET/PREFIX, SET/SPLIT or a pattern: several files, like "t2i_compbench/color", "t2i_compbench/train" or
            "t2i_compbench/*spatial/val";
        MIX: a mix, like "paper_mix".

    Args:
        file: the YAML file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if an entry is invalid; names the entry and the field.
    """

    def __init__(self, file: Path = MANIFEST_FILE) -> None:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: install hn again")
        self.folder = file.parent
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        try:
            self.sets = {name: _parse_set(name, facts) for name, facts in content["sets"].items()}
            self.mixes = {name: _parse(Mix, name, facts) for name, facts in content["mixes"].items()}
            for mix in self.mixes.values():
                for part in mix.parts:
                    self.find(part)
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}: {error}") from error

    def find(self, name: str) -> list[PromptFile]:
        """All files of a name, in the order of the manifest; those of a mix part by part.

        Raises:
            ValueError: if there is no such set or file (suggests similar names), or the set cannot be downloaded.
        """
        if name in self.mixes:
            return [file for part in self.mixes[name].parts for file in self.find(part)]
        head, _, pattern = name.partition("/")
        if head not in self.sets:
            raise ValueError(f"there is no prompt set {name!r}{self._nearest(name)}; `hn prompts list` shows them all")
        found = self.sets[head]
        if found.obtain is not None:
            raise ValueError(f"{head}: {found.obtain}")
        files = [file for own, file in found.files.items() if not pattern or _matches(pattern, own, file.split)]
        if not files:
            raise ValueError(f"prompt set {head} has no {pattern!r}; it has {', '.join(found.files)}")
        return files

    def choose(self, name: str, purpose: str) -> list[PromptFile]:
        """The files of a name for one purpose.

        A name without a split, like "t2i_compbench" or "pickapic_v1", means the training split for training. For
        validation it means the validation split or, if there is none, the test split; for tests the reverse.

        Args:
            name: of a set, files of a set, or a mix.
            purpose: "train", "val", "test" or "predict", which is treated like "test".

        Raises:
            ValueError: as `find`; also if the name has no split and the set has none for the purpose.
        """
        files = self.find(name)
        splits = {file.split for file in files}
        if len(splits) == 1 or name in self.mixes:
            return files
        preferred = {"train": ["train"], "val": ["val", "test"]}.get(purpose, ["test", "val"])
        split = next((split for split in preferred if split in splits), None)
        if split is None:
            raise ValueError(f"{name} leaves open which split is meant: name one of {', '.join(sorted(splits))}")
        return [file for file in files if file.split == split]

    def knows(self, name: str) -> bool:
        """Whether a name is a mix, or begins with the name of a set."""
        return name in self.mixes or name.partition("/")[0] in self.sets

    def _nearest(self, name: str) -> str:
        known = [*self.sets, *self.mixes, *(file.name for found in self.sets.values() for file in found.files.values())]
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        return f"; did you mean {' or '.join(nearest)}?" if nearest else ""


@cache
def load_manifest() -> Manifest:
    """The manifest that comes with hn, read once."""
    return Manifest()


def _matches(pattern: str, own: str, split: str) -> bool:
    return split == pattern or own == pattern or own.startswith(f"{pattern}/") or fnmatchcase(own, pattern)


def _parse_set(name: str, facts: Facts) -> PromptSet:
    facts = {**facts, "urls": tuple(facts.get("urls", ()))}
    found = _parse(PromptSet, name, facts)
    files = {own: _parse_file(found, own, entry) for own, entry in found.files.items()}
    if not files and found.obtain is None:
        raise ValueError(f"{name}: needs files, or `obtain`, which says how to come by them")
    if not found.bundled and files and not found.urls:
        raise ValueError(f"{name}: needs urls, or to be bundled")
    return _parse(PromptSet, name, {**facts, "files": files})


def _parse_file(found: PromptSet, own: str, facts: Facts) -> PromptFile:
    name, facts = f"{found.name}/{own}", dict(facts)
    file, split, archive_folder = (facts.pop(key, None) for key in ("file", "split", "archive_folder"))
    if not file or not split:
        raise ValueError(f"{name}: needs `file` and `split`")
    filtered = facts.pop("filtered", None)
    versions = [_parse_version(name, facts)]
    if filtered is not None:
        versions.append(_parse_version(f"{name}, filtered", filtered, filtered=True))
    urls = found.urls if archive_folder else tuple(folder + quote(file) for folder in found.urls)
    path = Path(file) if found.bundled else Path(found.name, file)
    return PromptFile(
        name, path, split, tuple(versions), urls, archive_folder, found.bundled, found.filter_unsafe, found.keep_repeats
    )


def _parse_version(name: str, facts: Facts, filtered: bool = False) -> Version:
    kinds = [kind for kind in CHECKSUMS if kind in facts]
    if len(kinds) != 1:
        raise ValueError(f"{name}: needs exactly one of {', '.join(CHECKSUMS)}")
    facts = dict(facts)
    checksum = facts.pop(kinds[0])
    if not isinstance(checksum, str) or len(checksum) != (64 if kinds[0] == "sha256" else 40):
        raise ValueError(f"{name}: {kinds[0]} must be a string of hexadecimal digits, not {checksum!r}")
    counts = {key: facts.pop(key) for key in ("prompts", "unique", "bytes") if key in facts}
    if len(counts) != 3 or facts:
        raise ValueError(f"{name}: needs prompts, unique and bytes (null if unknown), and nothing else of {[*facts]}")
    return Version(kinds[0], checksum, **counts, filtered=filtered)


def _parse(kind: type, name: str, facts: Facts) -> Any:
    """An instance of a data class; all fields without a default are required, and no others are allowed."""
    known = {field.name: field for field in fields(kind)}
    needed = {key for key in known if key not in ("name", "keep_repeats", "obtain")}
    if missing := needed - facts.keys():
        raise ValueError(f"{name}: lacks {', '.join(sorted(missing))}")
    if unknown := facts.keys() - known.keys():
        raise ValueError(f"{name}: has unknown fields {', '.join(sorted(unknown))}")
    return kind(name=name, **facts)
