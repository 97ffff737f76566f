"""Environment variables that torchrun, srun and Lightning set for processes that run a command together."""

from __future__ import annotations

from collections.abc import Mapping

RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
"""Set by torchrun and Lightning."""
SLURM_RANKS = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS")


def invalid_rank(environment: Mapping[str, str]) -> str | None:
    """What is wrong with the first of these variables that is not a whole number; None if all are or are not set.

    Lightning and torchmetrics read them when they are imported, and fail without saying which variable is wrong.
    """
    for name in (*RANKS, *SLURM_RANKS):
        value = environment.get(name, "0")
        if not (value.isascii() and value.isdecimal()):
            return (
                f"The environment variable {name} is {value!r}, and has to be a whole number from 0 on, as torchrun or "
                f"srun set it: start the command with one of them, or without the variable (`unset {name}`)."
            )
    return None


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether a process may be one of several that were started together."""
    return any(name in environment for name in (*RANKS, *SLURM_RANKS))
