"""What tells that a file is the published one: SHA-256, or the id that Git gave it."""

import hashlib
from pathlib import Path


def digest(path: Path, kind: str) -> str:
    """The checksum of a file or folder, in hexadecimal.

    Args:
        path: a file; for "git_tree" a folder of files.
        kind: "sha256"; "git_blob", Git's id of a file's content; or "git_tree", Git's id of a folder of plain files,
            subfolders and file modes left out. (Git's ids are SHA-1, which is enough to tell a damaged file.)

    Raises:
        ValueError: for any other kind.
    """
    if kind == "sha256":
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if kind == "git_blob":
        return _git_object("blob", path.read_bytes()).hex()
    if kind == "git_tree":
        files = sorted((file.name.encode(), file) for file in path.iterdir() if file.is_file())
        entries = (b"100644 %b\0%b" % (name, _git_object("blob", file.read_bytes())) for name, file in files)
        return _git_object("tree", b"".join(entries)).hex()
    raise ValueError(f"unknown kind of checksum {kind!r}: sha256, git_blob or git_tree")


def _git_object(kind: str, content: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).digest()
