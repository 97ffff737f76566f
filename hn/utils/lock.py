"""Locks, so that two processes do not write to one place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
"""The file of a folder's lock, and the ending of others."""


class InUseError(ValueError):
    """Another process is writing there."""


@contextmanager
def locked(place: Path, is_folder: bool) -> Iterator[None]:
    """Hold the lock of a file or folder that this process writes; no other process gets it meanwhile.

    The lock is the operating system's, on a hidden file that names the process and its machine. It ends with the
    process, however that ends; the file that a killed one leaves is taken over. Folders that are made for the file are
    removed again if they stay empty.

    Args:
        place: of the file or folder; it need not be there.
        is_folder: whether it is a folder; a folder's lock lies in it, that of a file beside it.

    Raises:
        InUseError: if another process holds the lock; names it.
        OSError: if nothing can be written there.
    """
    path = place / LOCK if is_folder else place.with_name(f".{place.name}{LOCK}")
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = ""
        with suppress(OSError):
            holder = path.read_text(encoding="utf-8", errors="replace").strip()
        raise InUseError(
            f"{place} is in use by {holder or 'another process'}, which writes there: wait until it ends, stop it, or "
            "choose another place."
        ) from None
    try:
        with suppress(OSError):  # a full disk: the lock holds, only its holder is not named
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # still held, so nobody else has it open as theirs
        lock.release()
        with suppress(OSError):  # where something was written
            for folder in made:
                folder.rmdir()
