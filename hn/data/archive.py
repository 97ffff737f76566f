"""Taking one folder out of a repository's zip archive."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath


def extract_folder(archive: Path, folder: str, destination: Path) -> None:
    """Write the files directly in one folder of an archive to `destination`, which appears when all are there.

    Args:
        archive: a zip file with one top folder, as Git hosts make them of a repository.
        folder: below the top folder, like "dpg_bench/prompts".
        destination: a folder; one that is there is replaced.

    Raises:
        ValueError: if it is no zip file or has no such folder.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{destination.name}.", dir=destination.parent))
    try:
        with zipfile.ZipFile(archive) as contents:
            members = [member for member in contents.infolist() if _is_in(member, folder)]
            if not members:
                raise ValueError(f"{archive} has no folder {folder}")
            for member in members:
                # The name alone, so that nothing is written elsewhere.
                (scratch / PurePosixPath(member.filename).name).write_bytes(contents.read(member))
        scratch.chmod(0o755)  # mkdtemp's folders are their owner's alone
        shutil.rmtree(destination, ignore_errors=True)
        scratch.replace(destination)
    except zipfile.BadZipFile:
        raise ValueError(f"{archive} is not a zip archive") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_in(member: zipfile.ZipInfo, folder: str) -> bool:
    parts = PurePosixPath(member.filename).parts
    return not member.is_dir() and "/".join(parts[1:-1]) == folder
