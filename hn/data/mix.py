"""The rows of a weighted mix in each epoch, a function of seed and epoch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` (exclusive) of a data set, each used `weight` times per epoch on average.

    The integer part of the weight is the number of times that every epoch has each row. The fraction is the share of
    rows that an epoch has once more, and this share rotates: with weight 0.5, even epochs have one half and odd epochs
    the other. So all rows are used equally often (to within one), and all epochs have the same number of rows.
    """

    start: int
    stop: int
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Number of rows in an epoch, at least one."""
        return max(1, int(self.weight) * self._size + self._share) if self._size else 0

    def rows(self, seed: int, epoch: int) -> Tensor:
        """The rows of an epoch, int64 [length]; their order has no meaning."""
        rows = torch.arange(self.start, self.stop)
        share = self.length - int(self.weight) * self._size
        if share == 0:
            return rows.repeat(int(self.weight))
        order = torch.randperm(self._size, generator=generator(f"{seed} share {self.start} {self.stop}"))
        share = order[torch.arange(epoch * share, (epoch + 1) * share) % self._size]
        return torch.cat([rows.repeat(int(self.weight)), rows[share]])

    @property
    def _size(self) -> int:
        return self.stop - self.start

    @property
    def _share(self) -> int:
        return round((self.weight - int(self.weight)) * self._size)


def epoch_rows(parts: Sequence[Part], seed: int, epoch: int) -> Tensor:
    """The rows of all parts in an epoch, int64 [n]; 0 to n - 1 if all weights are 1."""
    return torch.cat([part.rows(seed, epoch) for part in parts])


def generator(key: str) -> torch.Generator:
    """A random generator whose seed is a hash of `key`."""
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
