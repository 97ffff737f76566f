"""Writes the encodings of prompts that are not on disk yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import BatchSampler

from hn.data.encodings.files import PromptFiles, Tensors, size_in_words, without_padding
from hn.data.encodings.missing import MissingPrompts
from hn.data.encodings.truncation import TruncationCounter
from hn.utils.progress import with_progress

SHARD_BYTES = 1 << 28


@dataclass(frozen=True)
class Embedded:
    """What was done.

    Attributes:
        folder: of the files.
        prompts: how many different ones were asked for.
        written: how many of them had to be encoded.
    """

    folder: Path
    prompts: int
    written: int


@dataclass(frozen=True)
class Encoder:
    """What encodes prompts.

    Attributes:
        encode: B prompts -> tensors [B, ...] by name.
        batch_size: most prompts at a time.
        truncation: count what `encode` is given, and are asked at the end to say how many prompts were cut.
    """

    encode: Callable[[list[str]], Tensors]
    batch_size: int
    truncation: Sequence[TruncationCounter] = ()


def write_missing(
    files: PromptFiles, prompts: Iterable[str], load: Callable[[MissingPrompts], Encoder], shard_bytes: int
) -> Embedded:
    """Write what files lack of prompts; damaged files are replaced.

    Several processes may do this at a time: one writes, the others wait. An interrupted run is gone on with, shard by
    shard. The size of all is estimated, by a prompt of median length, before the work starts. In memory is what goes
    into a shard, and not the prompts.

    Args:
        files: where to.
        prompts: in any order, repeated or not; gone through several times.
        load: loads the encoder and has it look at the missing prompts; not called if there are none.
        shard_bytes: a file is closed when it holds so many.

    Raises:
        ValueError: if there are no prompts.
        OSError: if the disk has too little room, or cannot be written to; says what to do.
    """
    prompts = list(prompts) if isinstance(prompts, Iterator) else prompts
    if next(iter(prompts), None) is None:
        raise ValueError("There are no prompts to embed.")
    try:
        missing = MissingPrompts(files, prompts)
        if not missing:  # known without writing, which may not be allowed
            return Embedded(files.folder, missing.distinct, 0)
    except ValueError:  # a damaged file, which is replaced
        pass
    with files.lock():
        files.reopen()
        files.remove_damaged()
        missing = MissingPrompts(files, prompts)
        if not missing:
            return Embedded(files.folder, missing.distinct, 0)
        encoder = load(missing)
        each = size_of(encoder.encode([missing.of_median_length()]))
        files.require_space(each * len(missing))
        for counter in encoder.truncation:
            counter.restart()  # that prompt is encoded once more

        batches = BatchSampler(missing, encoder.batch_size, drop_last=False)
        pending: dict[str, Tensors] = {}
        size = 0
        name = f"{files.contents} of {len(missing)} prompts, about {size_in_words(each * len(missing))}"
        for batch in with_progress(batches, name):
            encoded = {name: tensor.cpu() for name, tensor in encoder.encode(batch).items()}
            for i, prompt in enumerate(batch):
                pending[prompt] = {name: tensor[i : i + 1] for name, tensor in encoded.items()}
                size += size_of(pending[prompt])
            if size >= shard_bytes:
                files.write(pending)
                pending, size = {}, 0
        if pending:
            files.write(pending)
        for counter in encoder.truncation:
            counter.warn()
    return Embedded(files.folder, missing.distinct, len(missing))


def size_of(tensors: Tensors) -> int:
    """Bytes in a file of one prompt's tensors."""
    return sum(kept.numel() * kept.element_size() for kept in map(without_padding, tensors.values()))
