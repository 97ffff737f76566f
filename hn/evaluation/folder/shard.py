"""Shares of the work of several processes, and the files that they write them to."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkShard:
    """The share of one of `count` processes: every `count`-th piece of the work, from piece `number` on.

    Args:
        number: 0, ..., count - 1.
        count: of processes.

    Raises:
        ValueError: if there is no such share.
    """

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(f"There is no shard {self}; of {self.count} they are 0 to {self.count - 1}.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """`0/4`: the first of four.

        Raises:
            ValueError: if the text says no share.
        """
        found = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
        if found is None:
            raise ValueError(f"A shard is its number, from 0 on, and how many there are, like 0/4; not {text!r}.")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """This process's among those that `torchrun` started (`RANK` and `WORLD_SIZE`); the whole without it.

        Raises:
            ValueError: if the variables say no share.
        """
        if not {"RANK", "WORLD_SIZE"} <= environment.keys():
            return cls()
        return cls.parse(f"{environment['RANK']}/{environment['WORLD_SIZE']}")

    def of(self, pieces: Sequence[T]) -> Sequence[T]:
        """The pieces that are this share's."""
        return pieces[self.number :: self.count]

    def file(self, path: Path) -> Path:
        """Where this share of a file is written: the file itself if there are no others."""
        if self.count == 1:
            return path
        return path.with_name(f"{path.stem}.shard-{self.number}-of-{self.count}{path.suffix}")


def shard_files(path: Path) -> list[Path]:
    """Files of any shards of a file that are there."""
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.shard-*-of-*{glob.escape(path.suffix)}"))
