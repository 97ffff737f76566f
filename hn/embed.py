"""Writing the conditioning of prompts to files, with a generator's text encoders and nothing else in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hn.generators.base import Conditioning
from hn.generators.conditioning_cache import size_in_words, without_padding
from hn.generators.pipeline import DiffusersGenerator
from hn.report.progress import with_progress

SHARD_BYTES = 1 << 28


@dataclass(frozen=True)
class Embedded:
    """What was done.

    Attributes:
        folder: of the conditioning.
        prompts: how many different ones were asked for.
        written: how many of them had to be encoded.
    """

    folder: Path
    prompts: int
    written: int


def embed_prompts(
    generator: DiffusersGenerator, prompts: Sequence[str], device: torch.device, shard_bytes: int = SHARD_BYTES
) -> Embedded:
    """Write what the files of `generator.conditioning` lack of prompts; damaged files are replaced.

    Several processes may do this at a time: one writes, the others wait. An interrupted run is gone on with, shard by
    shard. The size of all is estimated, by a prompt of median length, before the work starts.

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
    prompts = list(dict.fromkeys(prompts))
    if not prompts:
        raise ValueError("There are no prompts to embed.")
    cache = generator.conditioning
    with cache.lock():
        cache.reopen()
        cache.remove_damaged()
        missing = cache.missing(prompts)
        if not missing:
            return Embedded(cache.folder, len(prompts), 0)
        encoder, pipe = generator.load_prompt_encoder(device)
        encoder.check(pipe, missing)
        median = sorted(missing, key=len)[len(missing) // 2]
        each = size_of(encoder.encode(pipe, [median], device))
        cache.require_space(each * len(missing))

        batches = [missing[at : at + encoder.batch_size] for at in range(0, len(missing), encoder.batch_size)]
        pending: dict[str, Conditioning] = {}
        size = 0
        name = f"{len(missing)} prompts to embed, about {size_in_words(each * len(missing))}"
        for batch in with_progress(batches, name):
            encoded = encoder.encode(pipe, batch, device)
            for i, prompt in enumerate(batch):
                pending[prompt] = {name: tensor[i : i + 1].cpu() for name, tensor in encoded.items()}
                size += size_of(pending[prompt])
            if size >= shard_bytes:
                cache.write(pending)
                pending, size = {}, 0
        if pending:
            cache.write(pending)
    return Embedded(cache.folder, len(prompts), len(missing))


def size_of(conditioning: Conditioning) -> int:
    """Bytes in a file of one prompt's conditioning."""
    return sum(kept.numel() * kept.element_size() for kept in map(without_padding, conditioning.values()))
