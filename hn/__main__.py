"""The command `hn`; `python -m hn` is the same."""

from __future__ import annotations

import shlex
import sys
import traceback

from hn import __version__
from hn.cli import main as run
from hn.utils.text import say


def main() -> None:
    """Run one command; after the traceback of an unexpected error say where to report it."""
    find_modules_of_working_directory()
    try:
        run()
    except Exception:
        traceback.print_exc()
        command = shlex.join(["hn", *sys.argv[1:]])
        say(
            "\nThis is not meant to happen. If it is a fault of hn, report it where hn is from, with the lines above, "
            f"the version ({__version__}) and the command:\n  {command[:2000]}",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


def find_modules_of_working_directory() -> None:
    """Let class paths name modules of the working directory, as `python -m hn` does by itself.

    It comes last on the path, so that a file there never takes the place of a library; with Python's own switch against
    such imports (`python -P`, PYTHONSAFEPATH) nothing is added.
    """
    if not sys.flags.safe_path:
        sys.path.append("")


if __name__ == "__main__":
    main()
