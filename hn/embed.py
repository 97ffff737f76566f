"""Writing to files what text encoders make of prompts: a generator's conditioning, with its text encoders and nothing
else in memory, and the text features of rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import BatchSampler

from hn.generators.pipeline import DiffusersGenerator
from hn.missing_prompts import MissingPrompts
from hn.prompt_files import PromptFiles, Tensors, size_in_words, without_padding
from hn.report.progress import with_progress
from hn.rewards.contrastive import FEATURES, ContrastiveReward
from hn.text_window import TextWindow

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


def embed_prompts(
    generator: DiffusersGenerator, prompts: Iterable[str], device: torch.device, shard_bytes: int = SHARD_BYTES
) -> Embedded:
    """Write what the files of `generator.conditioning` lack of prompts: see `write_missing`.

    Args:
        generator: its outline is enough; it has a `cache`.
        prompts: in any order, repeated or not.
        device: of the text encoders.
        shard_bytes: a file is closed when it holds so many.

    Raises:
        ValueError: if there are no prompts, or the generator cannot take one of them; says what is wrong with it.
        FileNotFoundError: if weights are missing; says how to get them.
        OSError: if the disk has too little room, or cannot be written to; says what to do.
    """

    def load(missing: MissingPrompts) -> Encoder:
        encoder, pipe = generator.load_prompt_encoder(device)
        encoder.check(pipe, missing)
        return Encoder(lambda batch: encoder.encode(pipe, batch, device), encoder.batch_size)

    return write_missing(generator.conditioning, prompts, load, shard_bytes)


def embed_text_features(
    files: PromptFiles,
    load_reward: Callable[[], ContrastiveReward],
    prompts: Iterable[str],
    device: torch.device,
    shard_bytes: int = SHARD_BYTES,
) -> Embedded:
    """Write what the files of a reward's text features lack of prompts: see `write_missing`. How many of them the text
    tower cuts is said at the end.

    Args:
        files: of the reward's `text_identity`.
        load_reward: loads the reward; not called if nothing is missing.
        prompts: in any order, repeated or not.
        device: of the text tower.
        shard_bytes: a file is closed when it holds so many.

    Raises:
        ValueError: if there are no prompts.
        FileNotFoundError: if weights are missing; says how to get them.
        OSError: if the disk has too little room, or cannot be written to; says what to do.
    """

    def load(_: MissingPrompts) -> Encoder:
        reward = load_reward().to(device)
        return Encoder(
            lambda batch: {FEATURES: reward.encode_text(batch)}, reward.encode_batch_size, [reward.text_window]
        )

    return write_missing(files, prompts, load, shard_bytes)


@dataclass(frozen=True)
class Encoder:
    """What encodes prompts.

    Attributes:
        encode: B prompts -> tensors [B, ...] by name.
        batch_size: most prompts at a time.
        windows: count what `encode` is given, and are asked at the end to say how many prompts were cut.
    """

    encode: Callable[[list[str]], Tensors]
    batch_size: int
    windows: Sequence[TextWindow] = ()


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
        for window in encoder.windows:
            window.restart()  # that prompt is encoded once more

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
        for window in encoder.windows:
            window.warn()
    return Embedded(files.folder, missing.distinct, len(missing))


def size_of(tensors: Tensors) -> int:
    """Bytes in a file of one prompt's tensors."""
    return sum(kept.numel() * kept.element_size() for kept in map(without_padding, tensors.values()))
