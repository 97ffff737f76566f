"""Downloads that are resumed after interruptions, verified, and moved to their place only when complete; checksums."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from hn.utils.files import atomic_folder

CHUNK = 1 << 16  # bytes

TIMEOUT = 30.0  # seconds without a byte

ATTEMPTS = 3  # per address; each resumes where the last one was cut off


class DownloadError(OSError):
    """A file could not be downloaded; the message names the addresses and the reasons."""


def download(
    urls: Sequence[str], destination: Path, verify: Callable[[Path], bool], size: int | None = None, name: str = ""
) -> None:
    """Download a file from the first address that has the expected one.

    Data is written to `<destination>.part`. An interrupted transfer resumes from there (HTTP Range), at once or in the
    next call; if the server does not support that, it restarts. A complete file that `verify` accepts is renamed to
    `destination`; any other is deleted.

    Args:
        urls: http, https or file addresses, tried in order.
        destination: the file to create; missing folders are created.
        verify: returns whether a downloaded file is the expected one.
        size: expected bytes, if known.
        name: of the file in messages and the progress bar, which is shown on terminals only.

    Raises:
        DownloadError: if no address has the expected file, or the disk is full.
    """
    part = destination.with_name(destination.name + ".part")
    failures = []
    for url in urls:
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            had_some = part.is_file() and part.stat().st_size > 0
            _fetch(url, part, size, name)
            is_right = verify(part)
            if not is_right and had_some:
                # The existing part may be of another file.
                part.unlink()
                _fetch(url, part, size, name)
                is_right = verify(part)
            if is_right:
                os.replace(part, destination)
                return
            part.unlink()
            failures.append(f"{url}: the file there is not the expected one (wrong checksum)")
        except (HTTPError, URLError, http.client.HTTPException, ConnectionError, TimeoutError, EOFError) as error:
            failures.append(f"{url}: {_reason(error)}")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink(missing_ok=True)
            raise DownloadError(f"{name or destination.name} cannot be written to {destination}: {error}") from error
    raise DownloadError("\n".join(failures))


def _fetch(url: str, part: Path, size: int | None, name: str) -> None:
    """Download the rest of `part`; after a broken connection, resume up to `ATTEMPTS` times."""
    for attempt in range(ATTEMPTS):
        try:
            _transfer(url, part, size, name)
            return
        except HTTPError:
            raise
        except (http.client.HTTPException, ConnectionError, TimeoutError, EOFError):
            if attempt == ATTEMPTS - 1:
                raise


def _transfer(url: str, part: Path, size: int | None, name: str) -> None:
    done = part.stat().st_size if part.is_file() else 0
    if size is not None and done == size:
        return
    if size is not None and done > size:
        done = 0
    headers = {"User-Agent": "hn", "Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            return  # the part is complete or wrong: the checksum decides
        raise
    with response:
        if not _goes_on(response, done):
            done = 0
        announced = response.headers.get("Content-Length")
        total = done + int(announced) if announced else size
        with (
            part.open("ab" if done else "wb") as file,
            tqdm(
                desc=name,
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                disable=None,
                leave=False,
                dynamic_ncols=True,
                file=sys.stderr,
            ) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        # http.client reports a broken connection like the end of the file.
        if total is not None and part.stat().st_size < total:
            raise EOFError(f"the connection was cut off after {part.stat().st_size:,} of {total:,} bytes")


def _goes_on(response: Any, done: int) -> bool:
    """Whether the server sends the rest of the file, as requested, and not all of it."""
    start = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return response.status == http.client.PARTIAL_CONTENT and start == str(done)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return str(error.reason if isinstance(error, URLError) else error) or type(error).__name__


def extract_folder(archive: Path, folder: str, destination: Path) -> None:
    """Extract the files of one folder of an archive, without subfolders, to `destination`, atomically.

    Args:
        archive: a zip file with one top folder, like the archives of GitHub repositories.
        folder: path inside the top folder, like "dpg_bench/prompts".
        destination: a folder; an existing one is replaced.

    Raises:
        ValueError: if `archive` is no zip file or does not contain the folder.
    """
    try:
        with zipfile.ZipFile(archive) as contents, atomic_folder(destination) as temporary:
            members = [member for member in contents.infolist() if _is_in(member, folder)]
            if not members:
                raise ValueError(f"{archive} has no folder {folder}")
            for member in members:
                # Without its path, so that no file is written outside the folder.
                (temporary / PurePosixPath(member.filename).name).write_bytes(contents.read(member))
    except zipfile.BadZipFile:
        raise ValueError(f"{archive} is not a zip archive") from None


def _is_in(member: zipfile.ZipInfo, folder: str) -> bool:
    parts = PurePosixPath(member.filename).parts
    return not member.is_dir() and "/".join(parts[1:-1]) == folder


def digest(path: Path, kind: str) -> str:
    """The checksum of a file or folder, in hexadecimal.

    Args:
        path: a file, or a folder for "git_tree".
        kind: "sha256"; "git_blob", Git's object id of a file; or "git_tree", Git's object id of a folder of plain files
            (subfolders and file modes are ignored). Git's ids are SHA-1, which is enough to detect a damaged file.

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
