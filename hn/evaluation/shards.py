"""What several processes measured of one method, joined to what one process would have measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from hn.evaluation.record import MethodRecord


def joined(shards: Sequence[MethodRecord]) -> MethodRecord:
    """One record of all images, ordered by the prompts' numbers and the images', each image once.

    A `DistributedSampler` gives the first prompts to two processes to have equally many for all: the second time is
    dropped, so that means, verdicts and distances are those of one process.

    Args:
        shards: of one method, with the same scores; some may be empty.
    """
    name, nfe = shards[0].name, shards[0].nfe
    states = [shard.state() for shard in shards if len(shard)]
    if not states:
        return MethodRecord(name, nfe)
    columns = {key: torch.cat([tensors[key] for tensors, _ in states]) for key in states[0][0]}
    tags = [tag for _, facts in states for tag in facts["tags"]]
    keys = list(zip(columns["index"].tolist(), columns["copy"].tolist(), strict=True))
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    order = [first[key] for key in sorted(first)]
    facts = {
        **states[0][1],
        "seconds": sum(facts["seconds"] for _, facts in states) * len(order) / len(keys),
        "batches": sum(facts["batches"] for _, facts in states),
        "tags": [tags[place] for place in order],
    }
    return MethodRecord.of_state({key: column[order] for key, column in columns.items()}, facts)


def joined_over_processes(record: MethodRecord) -> MethodRecord:
    """`joined` of this and the other processes' records, the same in each of them; called by all at once.

    Alone, a process gets its record as it is.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return record
    shards: list[MethodRecord | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shards, record)
    return joined(shards)
