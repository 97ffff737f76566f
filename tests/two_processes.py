"""Runs a function in two processes that can talk to each other, or a command in two that torchrun starts."""

import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).parents[1]


def in_two_processes(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returns in each of two forked processes (tensors and plain values).

    Raises:
        torch.multiprocessing.ProcessRaisedException: if one of them fails, with its traceback.
    """
    store = folder / "store"
    store.unlink(missing_ok=True)
    mp.start_processes(_run, (function, folder, arguments), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def torchrun(*arguments: Any) -> None:
    """`hn` with these arguments in two processes that torchrun starts.

    Raises:
        subprocess.CalledProcessError: if one of them fails.
    """
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hn"]
    subprocess.run([*launched, *map(str, arguments)], cwd=ROOT, check=True, timeout=300)


def free_port() -> int:
    """A port that nobody listens at, below those that systems give to outgoing connections, so that none takes it
    before it is used."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _run(rank: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    try:
        torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
