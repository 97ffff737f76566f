"""Runs a function in two processes that can talk to each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_two_processes(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returns in each of two forked processes (tensors and plain values).

    Raises:
        torch.multiprocessing.ProcessRaisedException: if one of them fails, with its traceback.
    """
    store = folder / "store"
    store.unlink(missing_ok=True)
    mp.start_processes(_run, (function, folder, arguments), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(rank: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    try:
        torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
