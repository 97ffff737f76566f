"""A training order that is a function of seed, epoch and position: a resumed run gets exactly the remaining batches."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler

from hn.data.mix import epoch_rows, generator
from hn.data.prompts import PromptDataset

_CHUNK = 1 << 16


class EpochShuffle(DistributedSampler):
    """A permutation of the rows of an epoch for each (seed, epoch); ranks take rows in turn.

    Every rank gets the same number of samples; the remainder is dropped in this epoch. It is a `DistributedSampler`, so
    Lightning does not replace it, on one device or many, and calls `set_epoch`.

    The sampler has no state: each pass starts at the batch that `position` returns. When Lightning resumes, it restores
    its own progress but not the position of a loader. Its number of finished batches is exact, even in a checkpoint
    that was written during a batch.

    Args:
        dataset: the prompts.
        batch_size: samples per batch of this rank; the unit of `position`.
        seed: of the order.
        position: returns the number of finished batches in the current epoch.
        num_replicas: number of ranks.
        rank: of this process.
        updates_per_batch: updates in a row that get the same batches.
        batches_per_update: batches that an update accumulates.

    Raises:
        ValueError: if there are fewer prompts than one batch of all ranks needs.
    """

    def __init__(
        self,
        dataset: PromptDataset,
        batch_size: int,
        seed: int = 0,
        position: Callable[[], int] = lambda: 0,
        num_replicas: int = 1,
        rank: int = 0,
        updates_per_batch: int = 1,
        batches_per_update: int = 1,
    ):
        batches = batches_per_update if updates_per_batch > 1 else 1
        if dataset.epoch_length < batch_size * batches * num_replicas:
            count = "one batch" if batches == 1 else f"the {batches} batches of an update, each"
            raise ValueError(
                f"{dataset.epoch_length} training prompts do not fill {count} of {batch_size} on {num_replicas} "
                "device(s): lower batch_size or add prompts"
            )
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.batch_size = batch_size
        self.position = position
        self.updates_per_batch, self.batches_per_update = updates_per_batch, batches_per_update

    def __len__(self) -> int:
        length = self.dataset.epoch_length // self.num_replicas
        if self.updates_per_batch == 1:
            return length
        of_update = self.batch_size * self.batches_per_update
        return length // of_update * of_update * self.updates_per_batch

    def __iter__(self) -> Iterator[int]:
        # Hashed rather than added, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
        rng = generator(f"{self.seed} {self.epoch}")
        rows = epoch_rows(self.dataset.parts, self.seed, self.epoch)
        order = rows[torch.randperm(len(rows), generator=rng)][self.rank :: self.num_replicas]
        if self.updates_per_batch > 1:  # each update's batches in a row, so many times; whole updates alone
            of_update = self.batch_size * self.batches_per_update
            updates = order[: len(order) // of_update * of_update].view(-1, 1, of_update)
            order = updates.expand(-1, self.updates_per_batch, -1).flatten()
        left = order[self.position() * self.batch_size : len(self)]
        # In chunks: a list of millions of Python integers would take as much memory as the prompts.
        return chain.from_iterable(chunk.tolist() for chunk in left.split(_CHUNK))

    def describe(self) -> dict[str, Any]:
        """Everything besides epoch and position that determines the order of batches."""
        parts = [[part.start, part.stop, part.weight] for part in self.dataset.parts]
        # Left out where all weights are 1, so that the format of older checkpoints stays valid.
        weights = {"weights": parts} if any(weight != 1 for _, _, weight in parts) else {}
        return {
            "prompts": self.dataset.fingerprint,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "num_replicas": self.num_replicas,
            **weights,
            **({"updates_per_batch": self.updates_per_batch} if self.updates_per_batch > 1 else {}),
        }


class ResumableLoader(DataLoader):
    """A `DataLoader` over an `EpochShuffle` that Lightning can resume in the middle of an epoch.

    Attributes:
        prefetch_hook: told of each batch but the first when the one before it is handed out, so that what the batch
            needs can be prepared meanwhile; does nothing by default.
    """

    prefetch_hook: Callable[[Any], None] = staticmethod(lambda batch: None)

    def __iter__(self) -> Iterator[Any]:
        # A generator function, so that nothing runs before the first batch is requested: Lightning creates the iterator
        # before it sets the epoch and restores its progress, and worker processes would start at once.
        batches = super().__iter__()
        ahead = next(batches, None)
        while ahead is not None:
            batch, ahead = ahead, next(batches, None)
            if ahead is not None:
                self.prefetch_hook(ahead)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """What must be equal in the resumed run; the position is part of the trainer's state."""
        return self.sampler.describe()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Warn if the order of the checkpoint's run cannot be continued.

        The number of ranks may differ if the global batch size is the same.
        """
        own, state = _of_all_ranks(self.state_dict()), _of_all_ranks(state)
        changed = [name for name in {**own, **state} if state.get(name) != own.get(name)]
        if changed:
            rank_zero_warn(
                f"This run resumes with other {', '.join(changed)} than the checkpoint's: the rest of its epoch is in "
                "a new order, so some prompts may come twice and others not at all until the next epoch."
            )


def _of_all_ranks(state: dict[str, Any]) -> dict[str, Any]:
    """The state with the global batch size instead of the batch size per rank and the number of ranks."""
    ranks = state.get("num_replicas", 1)
    rest = {name: value for name, value in state.items() if name not in ("batch_size", "num_replicas")}
    return {**rest, "batch_size": state.get("batch_size", 0) * ranks}
