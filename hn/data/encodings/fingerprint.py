"""What tells weights and settings apart from others, so that what was made with them is known to be right or stale."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

WHOLE = 1 << 26  # bytes: files up to this size are read whole
SAMPLES, SAMPLE = 64, 1 << 16  # of larger ones so many blocks of so many bytes, evenly spaced


def fingerprint(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of the names, sizes and content of files, in hexadecimal; of large ones, of blocks all over the file.

    Args:
        folder: where they are.
        names: files, or folders of which all files count, those below them too; what is missing is left out.
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
    """A commit of a repository, known by where its file `marker` is cached, or the fingerprint of a folder's files.

    Args:
        pretrained: local folder, or id of a repository on the Hub.
        found: what `hn.utils.hub.locate` gave for it.
        revision: branch, tag or commit on the Hub.
        marker: a file that was located.
        names: of a folder, the files that count, as for `fingerprint`.
    """
    if not Path(pretrained).expanduser().is_dir():
        cached = try_to_load_from_cache(pretrained, marker, revision=revision)
        if isinstance(cached, str):
            return f"{pretrained}@{Path(cached).parents[len(Path(marker).parts) - 1].name}"
    if Path(found).is_dir():
        return f"sha256:{fingerprint(Path(found), names)}"
    return f"{pretrained}@{revision}"


def plain(value: Any) -> Any:
    """The value in JSON's types, so that it equals itself when read again."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)
