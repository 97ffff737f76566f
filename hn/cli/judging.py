"""What `hn geneval` and `hn judge` have in common: where results go, and the share of this process."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hn.cli.parsing import Parser, UserError
from hn.cli.processes import launcher
from hn.evaluation.folder.score import Shard
from hn.utils.device import find_device

SHARING = """Run again, it continues where it was interrupted. Several GPUs share the work if torchrun starts it on all:

  torchrun --nproc_per_node 8 -m hn """
"""Before the rest of such a command, for descriptions."""


@dataclass(frozen=True)
class JudgingOptions:
    """What `add_judging_options` asks for.

    Attributes:
        output: of JSON lines.
        batch_size: images judged at once.
        device: where to compute.
        shard: this process's share.
    """

    output: Path
    batch_size: int
    device: torch.device
    shard: Shard

    @classmethod
    def read(cls, given: Namespace, output: Path) -> JudgingOptions:
        """What was given; `output` where no other one is named.

        Raises:
            UserError, ValueError: if something of it cannot be.
        """
        if given.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {given.batch_size}.")
        output = output if given.output is None else Path(given.output)
        if output.is_dir() or output.suffix != ".jsonl":
            raise UserError(f"--output {output} has to be a file that ends in .jsonl.")
        return cls(output, given.batch_size, own_device(find_device(given.device)), own_shard(given.shard))

    @property
    def facts(self) -> dict[str, Any]:
        """For the summary's file."""
        return {"device": str(self.device), "batch_size": self.batch_size}


def add_judging_options(parser: Parser, output: str) -> None:
    """Add the options; `output` says where results go if that is not given."""
    add = parser.add_argument
    add("--output", help=f"JSON lines to write or to continue; {output} if not given.")
    add("--allow_uneven", type=bool, default=False, help="Take prompts with different numbers of images.")
    add("--batch_size", type=int, default=8, help="Images judged at once.")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto for the GPU if there is one.")
    add("--shard", help="The share of this process, like 0/4 for the first of four; torchrun's if not given. "
        "The last one to end joins all results.")  # fmt: skip


def own_shard(text: str | None) -> Shard:
    """The share that is given, or that `torchrun` gave.

    Raises:
        ValueError: if it is none.
        UserError: for several processes that would all do the same, as `srun` starts them.
    """
    if text is not None:
        return Shard.parse(text)
    if launcher() == "srun":
        raise UserError(
            "The tasks of srun would all do the same work; say the share of each: "
            "srun bash -c 'hn ... --shard $SLURM_PROCID/$SLURM_NTASKS'"
        )
    return Shard.of_environment()


def own_device(device: torch.device) -> torch.device:
    """The GPU of this one of the processes that `torchrun` started, if no particular one was asked for.

    Raises:
        ValueError: if there are more processes than GPUs.
    """
    rank = os.environ.get("LOCAL_RANK")
    return find_device(f"cuda:{rank}") if device == torch.device("cuda") and rank is not None else device
