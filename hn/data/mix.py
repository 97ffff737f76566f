"""Which rows of a weighted mix an epoch holds, from seed and epoch alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Rows `start` up to `stop` of a data set, which an epoch holds `weight` times.

    The whole part of the weight says how often each row comes. The rest is a share of the rows that changes: with
    weight 0.5 one half comes in even epochs and the other in odd ones, so that all rows come equally often (to within
    one) however long the training is. An epoch has the same number of rows each time.
    """

    start: int
    stop: int
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Rows an epoch holds; at least one."""
        return max(1, int(self.weight) * self._size + self._share) if self._size else 0

    def rows(self, seed: int, epoch: int) -> Tensor:
        """The rows of an epoch, [length] int64, in no order that matters."""
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
    """The rows of all parts that an epoch holds, [n] int64; 0 to n - 1 if all weights are 1."""
    return torch.cat([part.rows(seed, epoch) for part in parts])


def generator(key: str) -> torch.Generator:
    """A generator of random numbers that depends on a text."""
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
