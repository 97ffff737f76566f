"""Writing files in one step: they are there in whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
