"""Scores that further updates of a batch need, in a checkpoint: of all processes, and back to each of any number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hn.generators.noise import BatchSlice

Parts = Mapping[int, Mapping[str, Tensor]]
"""Tensors [B, ...] by name for each of an update's batches, as `Estimator.kept_scores` returns them."""


def gather_scores(parts: Parts, own: BatchSlice, all_gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The scores of all samples of an update, in the order of their numbers, on the CPU; empty if there are none.

    All processes must call this.

    Args:
        parts: this process's scores.
        own: which samples of an update a batch of this process holds; its part is of no concern.
        all_gather: [N, ...] of this process -> [ranks, N, ...] of all, or the tensor itself if there is one process.
    """
    if not parts:
        return {}
    names = [*parts[min(parts)]]
    numbers = [
        number for part in sorted(parts) for number in replace(own, part=part).positions(len(parts[part][names[0]]))
    ]
    rows = {name: torch.cat([parts[part][name] for part in sorted(parts)]) for name in names}
    device = rows[names[0]].device
    order = all_gather(torch.tensor(numbers, device=device)).flatten().argsort()
    rows = {name: value.to(device) for name, value in rows.items()}
    return {name: all_gather(value).reshape(-1, *value.shape[1:])[order].cpu() for name, value in rows.items()}


def own_scores(gathered: Mapping[str, Tensor], own: BatchSlice, device: torch.device) -> Parts:
    """What `gather_scores` returned, as the parts of one process; the number of processes may be another one."""
    if not gathered:
        return {}
    batch_size = len(next(iter(gathered.values()))) // (own.parts * own.ranks)
    return {
        part: {
            name: value[replace(own, part=part).positions(batch_size)].to(device) for name, value in gathered.items()
        }
        for part in range(own.parts)
    }
