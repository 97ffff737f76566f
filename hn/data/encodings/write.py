"""Encodes the prompts whose encodings are not on disk yet, and writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import BatchSampler

from hn.data.encodings.files import PromptFiles, Tensors, size_in_words, without_padding
from hn.data.encodings.truncation import TruncationCounter
from hn.utils.progress import with_progress

SHARD_BYTES = 1 << 28


@dataclass(frozen=True)
class Embedded:
    """Result of `write_missing`.

    Attributes:
        folder: of the files.
        prompts: number of distinct prompts requested.
        written: number of them that were encoded now.
    """

    folder: Path
    prompts: int
    written: int


@dataclass(frozen=True)
class Encoder:
    """How to encode prompts.

    Attributes:
        encode: maps B prompts to tensors [B, ...] by name.
        batch_size: largest B.
        truncation: counters of truncated prompts in `encode`; each logs its count when all prompts are encoded.
    """

    encode: Callable[[list[str]], Tensors]
    batch_size: int
    truncation: Sequence[TruncationCounter] = ()


def write_missing(
    files: PromptFiles, prompts: Iterable[str], load: Callable[[list[str]], Encoder], shard_bytes: int
) -> Embedded:
    """Encode the prompts that the files do not have yet, and write them; damaged files are replaced.

    If several processes call this at once, one writes and the others wait. After an interruption, the next call
    continues with the first missing shard. The total size is estimated from one prompt of median length before the
    work starts. Only the encodings of one shard are in memory at a time.

    Args:
        files: where to write.
        prompts: in any order; repeated prompts are encoded once.
        load: is given the missing prompts, checks them and returns the encoder; not called if none is missing.
        shard_bytes: a shard is written as soon as its tensors take this many bytes.

    Raises:
        ValueError: if there are no prompts.
        OSError: if the disk is too full or not writable; says what to do.
    """
    prompts = list(dict.fromkeys(prompts))
    if not prompts:
        raise ValueError("There are no prompts to embed.")
    try:
        if not files.missing(prompts):  # nothing is written: the folder may be read-only
            return Embedded(files.folder, len(prompts), 0)
    except ValueError:  # a damaged file, which is replaced
        pass
    with files.lock():
        files.reopen()
        files.remove_damaged()
        missing = files.missing(prompts)
        if not missing:
            return Embedded(files.folder, len(prompts), 0)
        encoder = load(missing)
        each = size_of(encoder.encode([sorted(missing, key=len)[len(missing) // 2]]))
        files.require_space(each * len(missing))
        for counter in encoder.truncation:
            counter.restart()  # the prompt of median length is encoded again below

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
    return Embedded(files.folder, len(prompts), len(missing))


def size_of(tensors: Tensors) -> int:
    """Bytes that one prompt's tensors take on disk."""
    return sum(kept.numel() * kept.element_size() for kept in map(without_padding, tensors.values()))
