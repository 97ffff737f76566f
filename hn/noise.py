"""Where the noise of training and evaluation comes from: every draw is a function of seed and progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hn.generators.base import Generator

NoiseType = Literal["inf", "batch", "one", "multi"]

_MASK = 2**64 - 1


def seeded(*key: int) -> torch.Generator:
    """A CPU generator whose seed mixes all numbers of the key (SplitMix64), so that near keys give unrelated draws."""
    state = 0
    for part in key:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return torch.Generator().manual_seed(state & (2**63 - 1))


# The second number of every key tells what a draw is for, so that no two purposes share a stream.
_INF, _BATCH, _ONE, _MULTI, _EVALUATION, _EVALUATION_STEPS, _TRAINING_STEPS = range(7)


def training_noise(
    noise_type: NoiseType, batch_size: int, generator: Generator, seed: int, step: int, part: int = 0, rank: int = 0
) -> Tensor:
    """Noise [B, *noise_shape] of one training batch, a function of the arguments alone.

    Args:
        noise_type: "inf" fresh per sample; "batch" one noise shared by all samples of an update (those of other ranks
            and accumulated batches too), new at each update; "one" the same single noise always; "multi" the same batch
            of noises always.
        batch_size: B.
        generator: whose noise is drawn.
        seed: of the run.
        step: updates done.
        part: number of the batch within the update, where gradients are accumulated.
        rank: of the process.

    Raises:
        ValueError: for an unknown type.
    """
    keys = {"inf": (_INF, step, part, rank), "batch": (_BATCH, step), "one": (_ONE,), "multi": (_MULTI, rank)}
    if noise_type not in keys:
        raise ValueError(f"Unknown noise type {noise_type!r}; choose one of {', '.join(keys)}.")
    shared = noise_type in ("batch", "one")
    noise = generator.sample_noise(1 if shared else batch_size, seeded(seed, *keys[noise_type]))
    return noise.expand(batch_size, *noise.shape[1:])


def training_stream(seed: int, step: int, part: int = 0, rank: int = 0) -> torch.Generator:
    """Source of the noise that a scheduler may draw after the first sampling step, for one training batch."""
    return seeded(seed, _TRAINING_STEPS, step, part, rank)


def evaluation_noise(generator: Generator, index: Sequence[int], copy: Sequence[int], seed: int) -> Tensor:
    """Noise [B, *noise_shape]: image `copy[b]` of the prompt number `index[b]`; depends on them and the seed alone."""
    return torch.cat(
        [generator.sample_noise(1, seeded(seed, _EVALUATION, i, k)) for i, k in zip(index, copy, strict=True)]
    )


def prompt_noise(generator: Generator, copy: Sequence[int], seed: int) -> Tensor:
    """Noise [B, *noise_shape] for images of prompts asked for by hand: it depends on seed and the image's number
    `copy[b]` alone, as if every prompt were the first of an evaluation."""
    return evaluation_noise(generator, [0] * len(copy), copy, seed)


def evaluation_streams(index: Sequence[int], copy: Sequence[int], seed: int) -> list[torch.Generator]:
    """One fresh source per image of what a scheduler or a search draws, keyed as `evaluation_noise` is."""
    return [seeded(seed, _EVALUATION_STEPS, i, k) for i, k in zip(index, copy, strict=True)]
