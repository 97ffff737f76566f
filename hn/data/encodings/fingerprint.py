"""Fingerprints of weights and settings: keys of caches, which tell whether a cached result is still valid."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from hn.utils.files import expand_home
from hn.utils.hub import cached_commit, repositories_in

WHOLE = 1 << 26  # bytes: files up to this size are hashed completely
SAMPLES, SAMPLE = 64, 1 << 16  # number and bytes of the evenly spaced blocks that are hashed of larger files


def fingerprint(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of the names, sizes and contents of files, in hexadecimal. Large files are sampled.

    Args:
        folder: of the files.
        names: files, or folders with all files below them; missing ones are skipped.
    """
    paths = [path for name in names for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    total = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        total.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                total.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for sample in range(SAMPLES):
                file.seek(sample * (size - SAMPLE) // (SAMPLES - 1))
                total.update(file.read(SAMPLE))
    return total.hexdigest()


def version(pretrained: str, found: str, revision: str | None, marker: str, names: Iterable[str]) -> str:
    """The version of weights: the commit of a Hub repository, or the fingerprint of the files in a local folder.

    Args:
        pretrained: local folder, or id of a repository on the Hub.
        found: what `hn.utils.hub.locate` returned for it.
        revision: branch, tag or commit on the Hub.
        marker: a file of the repository that is cached; its path in the cache contains the commit.
        names: of the files in a local folder, as for `fingerprint`.
    """
    if not expand_home(pretrained).is_dir():
        cached = try_to_load_from_cache(pretrained, marker, revision=revision)
        if isinstance(cached, str):
            return f"{pretrained}@{Path(cached).parents[len(Path(marker).parts) - 1].name}"
    if Path(found).is_dir():
        return f"sha256:{fingerprint(Path(found), names)}"
    return f"{pretrained}@{revision}"


def weights_versions(settings: Any) -> dict[str, str]:
    """Versions of all weights that settings name: fingerprints of local files and folders, and the commits of
    repositories on the Hub as far as the local cache has them.

    Args:
        settings: mappings, lists and plain values.
    """
    if isinstance(settings, Mapping):
        found = {}
        for value in settings.values():
            found |= weights_versions(value)
        for repository in repositories_in(settings):
            if commit := cached_commit(repository):
                found[repository.name] = commit
        return found
    if isinstance(settings, list | tuple):
        return {name: version for value in settings for name, version in weights_versions(value).items()}
    path = Path(os.path.expanduser(settings)) if isinstance(settings, str) and settings else None
    if path is None or not path.exists():
        return {}
    place = (path, ["."]) if path.is_dir() else (path.parent, [path.name])
    return {settings: f"sha256:{fingerprint(*place)}"}


def plain(value: Any) -> Any:
    """The value converted to JSON types, so that it is equal to itself after writing and reading."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)
