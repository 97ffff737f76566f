"""The command `hn`; `python -m hn` is the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
"""Environment variables by which a process knows its place among others, as torchrun and Lightning set them."""
SLURM_NUMBERS = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS")


def main() -> None:
    """Run one command, if the environment is one that Lightning can be imported in."""
    problem = wrong_number(os.environ)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
    find_modules_of_working_directory()
    from hn.cli import main as run  # not before: Lightning and torchmetrics read these variables when they are imported

    run()


def find_modules_of_working_directory() -> None:
    """Let class paths name modules of the working directory, as `python -m hn` does by itself.

    It comes last on the path, so that a file there never takes the place of a library; with Python's own switch against
    such imports (`python -P`, PYTHONSAFEPATH) nothing is added.
    """
    if not sys.flags.safe_path:
        sys.path.append("")


def wrong_number(environment: Mapping[str, str]) -> str | None:
    """What is wrong with the first of the variables that are set to something else than a number; None if none is."""
    for name in (*NUMBERS, *SLURM_NUMBERS):
        value = environment.get(name, "0")
        if not (value.isascii() and value.isdecimal()):
            return (
                f"The environment variable {name} is {value!r}, and has to be a whole number from 0 on, as torchrun or "
                f"srun set it: start the command with one of them, or without the variable (`unset {name}`)."
            )
    return None


if __name__ == "__main__":
    main()
