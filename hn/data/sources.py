"""Sources of prompts in a configuration: files, named sets, data sets on the Hub, and weighted mixes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hn.data.formats import PathLike, has_known_ending
from hn.data.hub import HubPrompts, is_address
from hn.data.manifest import Manifest, PromptFile, load_manifest

Sources = PathLike | Sequence[PathLike] | Mapping[str, float]


@dataclass(frozen=True)
class Source:
    """Files of the user, of a named set, or of a data set on the Hub; an epoch has their prompts `weight` times."""

    name: str
    weight: float
    files: tuple[Path | PromptFile | HubPrompts, ...]


def parse_sources(sources: Sources, purpose: str, manifest: Manifest | None = None) -> list[Source]:
    """Parse the sources in a configuration; no file is read.

    Args:
        sources: a file, the name of a set, an address hf://OWNER/NAME[@REVISION][/CONFIG]/SPLIT/COLUMN, a list of
            these, or a mapping from these to weights. A source with the suffix of a prompt file is a file; any other is
            a name or, if there is no such set, a folder of text files.
        purpose: "train", "val", "test" or "predict": selects the split of names without one (see `Manifest.choose`).
        manifest: where names are looked up; the manifest of the repository by default.

    Raises:
        ValueError: if there are no sources, a name is unknown, an address is malformed, or a weight is not a positive
            number.
    """
    if isinstance(sources, Mapping):
        weights = [(str(source), weight) for source, weight in sources.items()]
    else:
        several = [sources] if isinstance(sources, str | Path) else sources
        weights = [(str(source), 1.0) for source in several]
    if not weights:
        raise ValueError("a prompt set needs at least one file or name")
    for source, weight in weights:
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or weight <= 0:
            raise ValueError(f"the weight of {source} must be a positive number, not {weight!r}")
    return [part for source, weight in weights for part in _parse(source, float(weight), purpose, manifest)]


def _parse(source: str, weight: float, purpose: str, manifest: Manifest | None) -> list[Source]:
    if is_address(source):
        return [Source(source, weight, (HubPrompts.parse(source),))]
    if has_known_ending(source):
        return [Source(source, weight, (Path(source),))]
    manifest = manifest or load_manifest()
    if source in manifest.mixes:
        parts = manifest.mixes[source].parts.items()
        return [found for part, share in parts for found in _parse(part, weight * share, purpose, manifest)]
    if not manifest.knows(source) and Path(source).is_dir():
        return [Source(source, weight, (Path(source),))]
    try:
        return [Source(source, weight, tuple(manifest.choose(source, purpose)))]
    except ValueError as error:
        hint = "" if manifest.knows(source) else ". A prompt file ends in .jsonl, .txt, .csv, .tsv or .json"
        raise ValueError(f"{error}{hint}") from None
