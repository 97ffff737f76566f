"""Where the noise of training and evaluation comes from: every draw is a function of seed and progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from hn.generators.base import Generator
from hn.utils.device import to_device

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


@dataclass(frozen=True)
class BatchSlice:
    """Which samples of the global batch one process holds in one of its accumulated batches.

    The samples of the global batch (all those of an update) are numbered as one process would see them in one batch.
    Accumulated batches take them one after the other, and the ranks take those of an accumulated batch in turn, as
    `EpochShuffle` does with the prompts.

    Args:
        part: number of the batch within the update.
        parts: batches of one process that make an update.
        rank: of the process.
        ranks: number of processes.
    """

    part: int = 0
    parts: int = 1
    rank: int = 0
    ranks: int = 1

    def positions(self, batch_size: int) -> list[int]:
        """Numbers of the batch's samples among the `batch_size * parts * ranks` of the update."""
        return [(self.part * batch_size + sample) * self.ranks + self.rank for sample in range(batch_size)]


class TrainingNoise:
    """Noise of training batches, a function of the arguments alone.

    A sample's noise depends on its number in the update, not on how many processes and accumulated batches share the
    update: a process draws the noise of all of the update's samples (on the CPU, 12 ns a number), once, and each of its
    batches takes its own.

    Args:
        noise_type: "inf" fresh per sample; "batch" one noise shared by all samples of an update (those of other ranks
            and accumulated batches too), new at each update; "one" the same single noise always; "multi" the same
            noises at each update.

    Raises:
        ValueError: for an unknown type.
    """

    def __init__(self, noise_type: NoiseType) -> None:
        if noise_type not in get_args(NoiseType):
            raise ValueError(f"Unknown noise type {noise_type!r}; choose one of {', '.join(get_args(NoiseType))}.")
        self.noise_type = noise_type
        self._drawn: tuple[tuple, Tensor] | None = None  # for the parts of an update that are still to come

    def __call__(
        self, batch_size: int, generator: Generator, seed: int, step: int, batch: BatchSlice | None = None
    ) -> Tensor:
        """Noise [B, *noise_shape] of one batch, on the generator's device.

        Args:
            batch_size: B.
            generator: whose noise is drawn.
            seed: of the run.
            step: updates done.
            batch: which samples of the update it holds; all of them if not given.
        """
        batch = batch or BatchSlice()
        keys = {"inf": (_INF, step, 0, 0), "batch": (_BATCH, step), "one": (_ONE,), "multi": (_MULTI, 0)}
        key = (seed, *keys[self.noise_type])
        if self.noise_type in ("batch", "one"):
            noise = to_device(generator.sample_noise(1, seeded(*key), device="cpu"), generator.device)
            return noise.expand(batch_size, *noise.shape[1:])
        samples = batch_size * batch.parts * batch.ranks
        draw = (*key, samples, generator)
        if self._drawn is not None and self._drawn[0] == draw:
            noise = self._drawn[1]
        else:
            noise = generator.sample_noise(samples, seeded(*key), device="cpu")
        self._drawn = (draw, noise) if batch.part < batch.parts - 1 else None
        return to_device(noise[batch.positions(batch_size)], generator.device)


def training_streams(batch_size: int, seed: int, step: int, batch: BatchSlice | None = None) -> list[torch.Generator]:
    """One source per sample of the noise that a scheduler may draw after the first sampling step, keyed by the sample's
    number in the update, as `TrainingNoise` is."""
    return [seeded(seed, _TRAINING_STEPS, step, number) for number in (batch or BatchSlice()).positions(batch_size)]


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
