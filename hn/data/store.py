"""Where fetched prompt sets are kept, and how they come there."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from hn.data.download import DownloadError, digest, download, extract_folder
from hn.data.hub import HubPrompts
from hn.data.manifest import MANIFEST_FILE, PromptFile, Version
from hn.utils.files import atomic_folder, atomic_write

ENVIRONMENT = "HN_PROMPTS"


class PromptStore:
    """The folder of fetched sets, a folder each in it; bundled sets are read from the repository.

    Args:
        folder: None for HN_PROMPTS of the environment or, without it, hn/prompts in the user's cache folder
            (XDG_CACHE_HOME, else ~/.cache).
        bundled: the folder of bundled sets.
    """

    def __init__(self, folder: str | Path | None = None, bundled: Path = MANIFEST_FILE.parent) -> None:
        if folder is None:
            cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
            folder = os.environ.get(ENVIRONMENT) or Path(cache, "hn", "prompts")
        self.folder = Path(folder).expanduser()
        self.bundled = bundled

    def path(self, file: PromptFile) -> Path:
        """Where a file is, or would be."""
        return (self.bundled if file.bundled else self.folder) / file.path

    def is_here(self, file: PromptFile) -> bool:
        """Whether there is such a file, right or wrong."""
        return self.path(file).exists()

    def require(self, file: PromptFile) -> Path:
        """The path of a file that is here and has the right checksum.

        Raises:
            FileNotFoundError: if it is not here; says how to fetch it.
            ValueError: if it is not the file that the manifest describes.
        """
        path = self.path(file)
        if not path.exists():
            raise FileNotFoundError(f"prompt set {file.name} is not at {path}. {_advice(file)}")
        if identify(path, file) is None:
            raise ValueError(
                f"{path} is not prompt set {file.name}: {_differences(path, file)}. {_advice(file, ' anew')}"
            )
        return path

    def fetch(self, file: PromptFile, replace: bool = False) -> Path:
        """The path of a file, which is downloaded if it is not here; safe where several processes do so at a time.

        Args:
            file: the one to fetch.
            replace: whether to replace something else that is in its place.

        Raises:
            DownloadError: if it cannot be had; says how to come by it.
            ValueError: if something else is in its place.
        """
        path = self.path(file)
        if file.bundled or (path.exists() and not replace):
            return self.require(file)
        try:
            with self._lock(path):
                # Another process may have been faster, or it is here and right.
                if not path.exists() or identify(path, file) is None:
                    self._download(file, path)
        except OSError as error:
            raise DownloadError(
                f"prompt set {file.name} is not at {path} and could not be fetched. Where there is a network, "
                f"`hn prompts pull {file.name}` fetches it; a copy on disk is taken by "
                f"`hn prompts pull {file.name} --from FOLDER`.\n{error}"
            ) from error
        return path

    def stream(self, prompts: HubPrompts) -> Path:
        """The file of a column of a data set on the Hub, which is streamed if it is not here; safe where several
        processes do so at a time. Nothing is verified: a branch may have moved on since, a commit does not.

        Raises:
            DownloadError: if it cannot be had; says what to do.
        """
        path = self.folder / prompts.path
        if path.is_file():
            return path
        try:
            with self._lock(path):
                if not path.is_file():  # another process may have been faster
                    prompts.stream(path)
        except DownloadError:
            raise
        except OSError as error:
            raise DownloadError(f"{prompts} could not be written to {path}: {error}") from error
        return path

    def take(self, file: PromptFile, candidates: dict[int, list[Path]]) -> Path | None:
        """Copy a file from others on disk, known by its checksum whatever its name is.

        Args:
            file: the one to take.
            candidates: files by their sizes, as `files_by_size` finds them; folders under -1.

        Returns:
            What it was copied from; None if it is not among them.

        Raises:
            OSError: if it cannot be written.
        """
        sizes = [-1] if _is_folder(file) else [version.bytes for version in file.versions]
        if None in sizes:  # then it goes by the name, so that not everything on disk is read
            paths = [path for found in candidates.values() for path in found if path.name == file.path.name]
        else:
            paths = [path for size in sizes for path in candidates.get(size, ())]
        found = next((path for path in paths if identify(path, file) is not None), None)
        if found is not None:
            destination = self.path(file)
            with self._lock(destination):
                _copy(found, destination)
        return found

    def _download(self, file: PromptFile, path: Path) -> None:
        if file.archive_folder is None:
            size = file.versions[0].bytes
            download(file.urls, path, lambda part: identify(part, file) is not None, size, file.name)
            return
        archive, folder = path.with_name(path.name + ".zip"), file.archive_folder

        def is_right(part: Path) -> bool:
            try:
                extract_folder(part, folder, path)
            except ValueError:
                return False
            if identify(path, file) is None:
                shutil.rmtree(path)
                return False
            return True

        download(file.urls, archive, is_right, None, file.name)
        archive.unlink()

    def _lock(self, path: Path) -> FileLock:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_name(f".{path.name}.lock"))


def identify(path: Path, file: PromptFile) -> Version | None:
    """Which version of a file something on disk is; None if it is none of them."""
    is_folder = path.is_dir()
    if is_folder is not _is_folder(file):
        return None
    for version in file.versions:
        # What is cheap to know comes first: the number of files, each of which is a prompt, or the size.
        size, wanted = (len(os.listdir(path)), version.prompts) if is_folder else (path.stat().st_size, version.bytes)
        if wanted in (None, size) and digest(path, version.checksum_kind) == version.checksum:
            return version
    return None


def files_by_size(folder: Path) -> dict[int, list[Path]]:
    """All files below a folder by their sizes in bytes, and the folders under -1.

    Raises:
        NotADirectoryError: if it is no folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    found: dict[int, list[Path]] = defaultdict(list)
    for path in _walk(folder):
        if path.is_dir():
            found[-1].append(path)
        elif path.is_file():
            found[path.stat().st_size].append(path)
    return dict(found)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in (*sorted(files), *sorted(folders)))


def _copy(source: Path, destination: Path) -> None:
    """Copy a file or a folder of files atomically."""
    if source.is_dir():
        with atomic_folder(destination) as temporary:
            shutil.copytree(source, temporary, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        with atomic_write(destination) as temporary:
            shutil.copyfile(source, temporary)


def _is_folder(file: PromptFile) -> bool:
    return file.versions[0].checksum_kind == "git_tree"


def _advice(file: PromptFile, how: str = "") -> str:
    return "It comes with hn: install hn again." if file.bundled else f"`hn prompts pull {file.name}` fetches it{how}."


def _differences(path: Path, file: PromptFile) -> str:
    kind, wanted = file.versions[0].checksum_kind, file.versions[0].checksum
    if _is_folder(file) is not path.is_dir():
        return "it should be a folder" if _is_folder(file) else "it should be a file"
    return f"its {kind} is {digest(path, kind)[:12]}... instead of {wanted[:12]}..."
