"""Paths as users write them, and files that come with hn: experiments, prompt sets, the miniature's checkpoints.

In the repository they lie in `experiments/` and `data/`; `hn/utils/_bundled` has links to both, which a wheel replaces
by the files. Both give a file the same path below `hn/utils/_bundled` as in the repository.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "_bundled"
_PARTS = ("data/miniature", "data/prompts", "experiments/")
_IN_LISTS = re.compile(r"(?<=[\[{\"',:])~(?=/)")
"""A home folder in a list or mapping, like '["~/a.jsonl"]'."""
_WRITTEN = ("--output", "--run.root")
"""Options that name what a command writes."""


def bundled(path: str | Path) -> Path:
    """Where a bundled file or folder is.

    Args:
        path: as in the repository, like "data/miniature/pipeline".

    Returns:
        Its absolute path, whether there is such a file or not.
    """
    return (_FOLDER / path).resolve()


def find_path(path: str) -> str:
    """The path itself, a `~` at its beginning expanded; or, if it is relative and the working directory has no such
    file but hn has, where hn has it."""
    if path.startswith("~") and path != "~":  # which is null in YAML
        return os.path.expanduser(path)  # as it is where there is no such home folder
    is_candidate = path.startswith(_PARTS) and ".." not in Path(path).parts
    if is_candidate and not os.path.exists(path) and os.path.exists(_FOLDER / path):
        return str(bundled(path))
    return path


def find_paths(content: Any) -> Any:
    """The content of a YAML file, each string in it (keys too) as `find_path` gives it."""
    if isinstance(content, str):
        return find_path(content)
    if isinstance(content, list):
        return [find_paths(each) for each in content]
    if isinstance(content, dict):
        return {find_paths(key): find_paths(value) for key, value in content.items()}
    return content


def find_argument_paths(arguments: Sequence[str]) -> list[str]:
    """The words of a command line, `PATH` and `--option=PATH` as `find_path` gives the path; for options that name what
    is written, the path with its `~` expanded."""
    found = []
    words = [_IN_LISTS.sub(os.path.expanduser("~"), word) for word in arguments]
    for before, word in zip(("", *words), words, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        find = os.path.expanduser if option in _WRITTEN else find_path
        found.append(f"{option}={find(value)}" if equals else find(word))
    return found
