"""What an evaluation makes images from: prompts, each several times, with their noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from hn.data.prompts import PromptBatch
from hn.generators.base import Generator
from hn.generators.noise import evaluation_noise, evaluation_streams


@dataclass(frozen=True)
class Samples:
    """P prompts with K images each, prompt by prompt: B = P * K samples.

    An image's noise depends on (seed, prompt's number, image's number) alone: not on the method, the batch it is in or
    the order, so methods are compared on the same noise.

    Attributes:
        prompts: B prompts.
        metadata: B rows of the prompt file.
        index: B numbers, the prompt's in its set.
        copy: B numbers, the image's among those of its prompt.
        seed: of the noise.
        noise: [B, *noise_shape] ~ N(0, I), on the generator's device.
    """

    prompts: list[str]
    metadata: list[Mapping[str, Any]]
    index: list[int]
    copy: list[int]
    seed: int
    noise: Tensor

    @classmethod
    def draw(cls, generator: Generator, batch: PromptBatch, images_per_prompt: int, seed: int) -> Self:
        """`images_per_prompt` samples for each prompt of a batch."""
        copies = range(images_per_prompt)
        index = [int(i) for i in batch["index"] for _ in copies]
        copy = [k for _ in batch["prompt"] for k in copies]
        return cls(
            prompts=[prompt for prompt in batch["prompt"] for _ in copies],
            metadata=[row for row in batch["metadata"] for _ in copies],
            index=index,
            copy=copy,
            seed=seed,
            noise=evaluation_noise(generator, index, copy, seed),
        )

    @classmethod
    def of_prompts(cls, generator: Generator, prompts: Sequence[str], images_per_prompt: int, seed: int) -> Self:
        """Likewise for bare prompts, numbered in their order."""
        batch = PromptBatch(
            prompt=list(prompts), metadata=[{"prompt": text} for text in prompts], index=torch.arange(len(prompts))
        )
        return cls.draw(generator, batch, images_per_prompt, seed)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tags(self) -> list[str]:
        """GenEval's tag of each sample, "all" for rows without one."""
        return [row.get("tag", "all") for row in self.metadata]

    def streams(self) -> list[torch.Generator]:
        """Fresh sources of randomness, one per sample and always the same: what schedulers and searches draw from."""
        return evaluation_streams(self.index, self.copy, self.seed)
