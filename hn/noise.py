"""Where the noise of training and evaluation comes from: every draw is a function of seed and progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hn.generators.base import Generator

NoiseType = Literal["inf", "batch", "one", "multi"]


def seeded(*key: int) -> torch.Generator:
    """A CPU generator whose seed mixes all numbers of the key (SplitMix64), so that near keys give unrelated draws."""
    state = 0
    for part in key:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return torch.Generator().manual_seed(state & (2**63 - 1))


_MASK = 2**64 - 1


def training_noise(
    noise_type: NoiseType, batch_size: int, generator: Generator, seed: int, step: int, batch_idx: int, rank: int = 0
) -> Tensor:
    """Noise [B, *noise_shape] of one training batch.

    Args:
        noise_type: "inf" fresh per sample; "batch" one noise shared by all samples (ranks and accumulated batches too)
            of an update; "one" the same single noise always; "multi" the same batch of noises always.
        batch_size: B.
        generator: whose noise is drawn.
        seed: of the run.
        step: optimiser steps done.
        batch_idx: of the batch, so that accumulated batches differ.
        rank: of the process.

    Raises:
        ValueError: for an unknown type.
    """
    keys = {"inf": (0, step, batch_idx, rank), "batch": (1, step), "one": (2,), "multi": (3, rank)}
    if noise_type not in keys:
        raise ValueError(f"Unknown noise type {noise_type!r}; choose one of {', '.join(keys)}.")
    shared = noise_type in ("batch", "one")
    noise = generator.sample_noise(1 if shared else batch_size, seeded(seed, *keys[noise_type]))
    return noise.expand(batch_size, *noise.shape[1:])


def evaluation_noise(generator: Generator, index: Sequence[int], copies: int, seed: int) -> Tensor:
    """Noise [P * copies, *noise_shape]: that of a prompt's k-th image depends on (seed, prompt's index, k) alone."""
    samples = [generator.sample_noise(1, seeded(seed, 4, i, k)) for i in index for k in range(copies)]
    return torch.cat(samples)
