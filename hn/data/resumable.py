"""A training order that follows from seed, epoch and position alone: a resumed run sees exactly the batches that the
interrupted one had left."""

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
    """A permutation of the data set, or of the epoch's rows of a weighted mix, for each (seed, epoch), distributed over
    the ranks in turn.

    Every rank gets the same number of samples; the remainder is left out of this epoch. It is a `DistributedSampler` so
    that Lightning takes it as it is, on one device or many, and calls `set_epoch`.

    Nothing is counted here: each pass starts at the batch that `position` names. Lightning restores its own progress
    when it resumes but starts a loader afresh; its number of batches done is exact even in a checkpoint that was
    written while a batch was under way.

    Args:
        dataset: the prompts.
        batch_size: samples that this rank takes for one batch; the unit of `position`.
        seed: decides the order together with the epoch.
        position: tells how many batches of the running epoch are done.
        num_replicas: number of ranks.
        rank: this one.

    Raises:
        ValueError: if there are fewer prompts than one batch of all ranks takes.
    """

    def __init__(
        self,
        dataset: PromptDataset,
        batch_size: int,
        seed: int = 0,
        position: Callable[[], int] = lambda: 0,
        num_replicas: int = 1,
        rank: int = 0,
    ):
        if dataset.epoch_length < batch_size * num_replicas:
            raise ValueError(
                f"{dataset.epoch_length} training prompts do not fill one batch of {batch_size} on {num_replicas} "
                "device(s): lower batch_size or add prompts"
            )
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self.batch_size = batch_size
        self.position = position

    def __len__(self) -> int:
        return self.dataset.epoch_length // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        # Hashed rather than added, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
        rng = generator(f"{self.seed} {self.epoch}")
        rows = epoch_rows(self.dataset.parts, self.seed, self.epoch)
        order = rows[torch.randperm(len(rows), generator=rng)][self.rank :: self.num_replicas]
        left = order[self.position() * self.batch_size : len(self)]
        # A chunk at a time: as a list, an order of millions would take as much memory as the prompts.
        return chain.from_iterable(chunk.tolist() for chunk in left.split(_CHUNK))

    def describe(self) -> dict[str, Any]:
        """What the order of batches depends on, beside epoch and position."""
        parts = [[part.start, part.stop, part.weight] for part in self.dataset.parts]
        # Not said of prompts that are all seen once, so that their checkpoints stay as they are.
        weights = {"weights": parts} if any(weight != 1 for _, _, weight in parts) else {}
        return {
            "prompts": self.dataset.fingerprint,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "num_replicas": self.num_replicas,
            **weights,
        }


class ResumableLoader(DataLoader):
    """A `DataLoader` over an `EpochShuffle` that Lightning may resume in the middle of an epoch.

    Attributes:
        prefetch_hook: told of each batch but the first when the one before it is handed out, so that what the batch
            needs can be prepared meanwhile; does nothing by default.
    """

    prefetch_hook: Callable[[Any], None] = staticmethod(lambda batch: None)

    def __iter__(self) -> Iterator[Any]:
        # A generator function, so nothing happens before the first batch is asked for: Lightning makes the iterator
        # before it has set the epoch and restored its progress, and worker processes would begin at once.
        batches = super().__iter__()
        ahead = next(batches, None)
        while ahead is not None:
            batch, ahead = ahead, next(batches, None)
            if ahead is not None:
                self.prefetch_hook(ahead)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """What must be the same for a resumed run to continue; the position is in the trainer's own state."""
        return self.sampler.describe()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Warn if the order of the checkpoint's run cannot be continued.

        It can on another number of ranks, if the batches of all of them together are as large.
        """
        own, state = _of_all_ranks(self.state_dict()), _of_all_ranks(state)
        changed = [name for name in {**own, **state} if state.get(name) != own.get(name)]
        if changed:
            rank_zero_warn(
                f"This run resumes with other {', '.join(changed)} than the checkpoint's: the rest of its epoch is in "
                "a new order, so some prompts may come twice and others not at all until the next epoch."
            )


def _of_all_ranks(state: dict[str, Any]) -> dict[str, Any]:
    """The state with the batch size of all ranks together in the place of one's, and of their number."""
    ranks = state.get("num_replicas", 1)
    rest = {name: value for name, value in state.items() if name not in ("batch_size", "num_replicas")}
    return {**rest, "batch_size": state.get("batch_size", 0) * ranks}
