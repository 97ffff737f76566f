"""The folder of downloaded prompt sets."""

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
from hn.utils.files import atomic_folder, atomic_write, cache_folder, expand_home

ENVIRONMENT = "HN_PROMPTS"


class PromptStore:
    """The folder of downloaded sets, with one subfolder per set. Bundled sets are read from the repository.

    Args:
        folder: the environment variable HN_PROMPTS if None, or else hn/prompts in the user's cache folder
            (XDG_CACHE_HOME or ~/.cache).
        bundled: the folder of bundled sets.
    """

    def __init__(self, folder: str | Path | None = None, bundled: Path = MANIFEST_FILE.parent) -> None:
        if folder is None:
            folder = os.environ.get(ENVIRONMENT) or cache_folder("prompts")
        self.folder = expand_home(folder)
        self.bundled = bundled

    def path(self, file: PromptFile) -> Path:
        """Path of a file, whether it exists or not."""
        return (self.bundled if file.bundled else self.folder) / file.path

    def is_here(self, file: PromptFile) -> bool:
        """Whether the file exists; its checksum is not verified."""
        return self.path(file).exists()

    def require(self, file: PromptFile) -> Path:
        """The path of a file that exists and has the expected checksum.

        Raises:
            FileNotFoundError: if it does not exist; says how to download it.
            ValueError: if its checksum differs from the manifest's.
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
        """The path of a file, which is downloaded if it does not exist; several processes may call this at once.

        Args:
            file: the file to download.
            replace: whether to replace an existing file with another checksum.

        Raises:
            DownloadError: if it cannot be downloaded; says how to get it.
            ValueError: if the existing file has another checksum.
        """
        path = self.path(file)
        if file.bundled or (path.exists() and not replace):
            return self.require(file)
        try:
            with self._lock(path):
                # Another process may have downloaded it, or it exists and is right.
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
        """The file of a column of a data set on the Hub, downloaded if it does not exist; several processes may call
        this at once. There is no checksum: a branch may have changed since, a commit has not.

        Raises:
            DownloadError: if it cannot be downloaded; says what to do.
        """
        path = self.folder / prompts.path
        if path.is_file():
            return path
        try:
            with self._lock(path):
                if not path.is_file():  # another process may have downloaded it
                    prompts.stream(path)
        except DownloadError:
            raise
        except OSError as error:
            raise DownloadError(f"{prompts} could not be written to {path}: {error}") from error
        return path

    def take(self, file: PromptFile, candidates: dict[int, list[Path]]) -> Path | None:
        """Copy a file of a set from files on disk; it is recognised by its checksum, not by its name.

        Args:
            file: the file of the set.
            candidates: files by their sizes, and folders under -1, as `files_by_size` returns them.

        Returns:
            The file that was copied; None if none has the checksum.

        Raises:
            OSError: if it cannot be written.
        """
        sizes = [-1] if _is_folder(file) else [version.bytes for version in file.versions]
        if None in sizes:  # unknown size: compare files of the same name only, not all files on disk
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
    """The version of `file` whose checksum the file at `path` has; None if it has none of them."""
    is_folder = path.is_dir()
    if is_folder is not _is_folder(file):
        return None
    for version in file.versions:
        # Compare what is fast first: the number of files (one prompt each) in a folder, or the size of a file.
        size, wanted = (len(os.listdir(path)), version.prompts) if is_folder else (path.stat().st_size, version.bytes)
        if wanted in (None, size) and digest(path, version.checksum_kind) == version.checksum:
            return version
    return None


def files_by_size(folder: Path) -> dict[int, list[Path]]:
    """All files below a folder by their sizes in bytes, and all folders below it under -1.

    Raises:
        NotADirectoryError: if `folder` is no folder.
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
