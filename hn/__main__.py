"""The command `hn`; `python -m hn` is the same."""

from __future__ import annotations

import sys

from hn.cli import main as run


def main() -> None:
    """Run one command."""
    find_modules_of_working_directory()
    run()


def find_modules_of_working_directory() -> None:
    """Let class paths name modules of the working directory, as `python -m hn` does by itself.

    It comes last on the path, so that a file there never takes the place of a library; with Python's own switch against
    such imports (`python -P`, PYTHONSAFEPATH) nothing is added.
    """
    if not sys.flags.safe_path:
        sys.path.append("")


if __name__ == "__main__":
    main()
