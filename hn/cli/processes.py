"""Commands that several processes run together, which must agree on some things before they can talk to each other.

Either one process starts the others (Lightning does so for `--trainer.devices`), or torchrun or srun starts all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from hn.cli.parsing import UserError

RUN_NAME = "HN_RUN_NAME"
"""Environment variable that tells the processes that Lightning starts the name of the run."""
SECONDS_FOR_RANK_ZERO = 15.0


def launcher() -> str | None:
    """What started this process together with others: "torchrun" or "srun"; None if it was not started so."""
    if TorchElasticEnvironment.detect() and TorchElasticEnvironment().world_size() > 1:
        return "torchrun"
    # The shell of an sbatch script knows the number of tasks as well; it is no step of the job.
    if SLURMEnvironment.detect() and "SLURM_STEP_ID" in os.environ and SLURMEnvironment().world_size() > 1:
        return "srun"
    return None


def require_run_name(command: str, name: str | None, nodes: int) -> None:
    """Refuse a run without a name if its processes did not start each other: their default names, times, would differ.

    Args:
        command: its name.
        name: what the command line says, if anything.
        nodes: number of machines.

    Raises:
        UserError: says what to add.
    """
    started_by = launcher() or ("hand on several machines" if nodes > 1 and RUN_NAME not in os.environ else None)
    if name is None and started_by is not None:
        raise UserError(
            f"Processes started by {started_by} need the run's name, so that all of them use one directory: "
            f"hn {command} ... --run.name=NAME"
        )


def run_name_of_rank_zero() -> str | None:
    """The run's name, if another process that has settled it started this one."""
    return os.environ.get(RUN_NAME)


def require_one_process(command: str) -> None:
    """Raises:
    UserError: if several processes were started for a command that runs in one.
    """
    started_by = launcher()
    if started_by is not None:
        raise UserError(f"hn {command} runs in one process; start it without {started_by}.")


def require_one_device(trained: str, devices: int | str | list[int], nodes: int) -> None:
    """Raises:
    UserError: if a comparison, which runs in one process, would have to train something on several devices.
    """
    if are_several(devices, nodes):
        raise UserError(
            f"hn compare runs in one process and would have to train {trained} first: train it with `hn train --config "
            f"{trained}` on these devices, or let the comparison do it on one (--trainer.devices 1 --trainer.num_nodes "
            "1)."
        )


def are_several(devices: int | str | list[int], nodes: int) -> bool:
    """Whether a configuration asks for several devices; not where it leaves their number to Lightning.

    Args:
        devices: `trainer.devices`: a number, a list of devices, or either as text.
        nodes: number of machines.
    """
    if isinstance(devices, list):
        count = len(devices)
    elif str(devices) in ("auto", "-1"):
        return False
    elif str(devices).isdecimal():
        count = int(devices)
    else:
        count = len(str(devices).strip(",").split(","))
    return count * nodes > 1


@contextmanager
def run_name_for_others(name: str) -> Iterator[None]:
    """Tell the processes that are started meanwhile the name of the run."""
    before = os.environ.get(RUN_NAME)
    os.environ[RUN_NAME] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUN_NAME]
        else:
            os.environ[RUN_NAME] = before


def leave_the_error_to_rank_zero() -> str:
    """Leave an error that all ranks have to rank 0.

    Other ranks wait a little: if rank 0 failed too, whoever started them ends them meanwhile, or is rank 0 itself.

    Returns:
        What to put before the message: nothing on rank 0, and on others, if they are still there, their number.

    Raises:
        SystemExit: if rank 0 has ended.
    """
    if rank_zero_only.rank == 0:
        return ""
    parent, until = os.getppid(), time.monotonic() + SECONDS_FOR_RANK_ZERO
    while time.monotonic() < until:
        time.sleep(0.1)
        if os.getppid() != parent:
            raise SystemExit(2)
    return f"[rank {rank_zero_only.rank}] "
