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
    filled = [shard for shard in shards if len(shard)]
    if not filled:
        return MethodRecord(shards[0].name, shards[0].nfe)
    facts = [shard.state()[1] for shard in filled]
    each = [shard.columns() for shard in filled]
    columns = {name: torch.cat([own[name] for own in each]) for name in each[0]}
    tags = [tag for own in facts for tag in own["tags"]]
    keys = list(zip(columns["index"].tolist(), columns["copy"].tolist(), strict=True))
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    order = [first[key] for key in sorted(first)]
    whole = {
        "seconds": sum(own["seconds"] for own in facts) * len(order) / len(keys),
        "batches": sum(own["batches"] for own in facts),
        "trace": [],  # of searches, which are not measured in shards
        "peak_memory_bytes": max(filter(None, (own["peak_memory_bytes"] for own in facts)), default=None),
        "tags": [tags[place] for place in order],
        "earlier": {},
    }
    record = MethodRecord.of_state({name: column[order] for name, column in columns.items()}, facts[0] | whole)
    record.nfe = sum(shard.nfe * len(shard) for shard in filled) / len(keys)
    for count in filled[0].earlier:
        record.earlier[count] = joined([shard.earlier[count] for shard in filled])
    return record


def joined_over_processes(record: MethodRecord) -> MethodRecord:
    """`joined` of this and the other processes' records, the same in each of them; called by all at once.

    Alone, a process gets its record as it is.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return record
    shards: list[MethodRecord | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shards, record)
    return joined(shards)
