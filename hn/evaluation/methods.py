"""The methods a comparison puts side by side: each turns noise and prompts into images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hn.generators.base import Generator
from hn.hypernets.base import Hypernet
from hn.noise import seeded
from hn.objective import noise_kl
from hn.rewards.ensemble import RewardEnsemble
from hn.search.base import Search


@dataclass(frozen=True)
class MethodOutput:
    """Images [B, 3, H, W] in [0, 1], and the noise-space cost [B] in nats where the method has one."""

    images: Tensor
    kl_nats: Tensor | None


class Method(ABC):
    """One way to make images of prompts.

    Attributes:
        name: its key in `results.json`.
        nfe: forward passes of the backbone for one image.
    """

    name: str
    nfe: float

    @abstractmethod
    def __call__(self, noise: Tensor, prompts: Sequence[str]) -> MethodOutput:
        """Images for noise [B, *noise_shape] ~ N(0, I) and B prompts."""


class Sampled(Method):
    """A generator as it is: the base, or a fine-tuned one (whose cost in noise space does not exist: `kl_nats` is None)."""

    def __init__(self, name: str, generator: Generator, base: bool, steps: int | None = None) -> None:
        self.name, self.generator, self.base = name, generator, base
        self.steps = generator.steps if steps is None else steps
        self.nfe = self.steps

    @torch.no_grad()
    def __call__(self, noise: Tensor, prompts: Sequence[str]) -> MethodOutput:
        images = self.generator.generate(noise, self.generator.encode(prompts), self.steps, seeded(noise.shape[0]))
        return MethodOutput(images, noise.new_zeros(len(noise)) if self.base else None)


class Modulated(Method):
    """The generator on the hypernetwork's noise: one more pass of the backbone. KL: 1/2 |f|^2."""

    def __init__(self, name: str, generator: Generator, hypernet: Hypernet, steps: int | None = None) -> None:
        self.name, self.generator, self.hypernet = name, generator, hypernet
        self.steps = generator.steps if steps is None else steps
        self.nfe = self.steps + 1

    @torch.no_grad()
    def __call__(self, noise: Tensor, prompts: Sequence[str]) -> MethodOutput:
        conditioning = self.generator.encode(prompts)
        f = self.hypernet(noise, conditioning)
        images = self.generator.generate(noise + f, conditioning, self.steps, seeded(noise.shape[0]))
        return MethodOutput(images, noise_kl(f))


class Searched(Method):
    """A test-time search on the trained reward.

    Args:
        name: key in `results.json`.
        generator: the frozen generator.
        search: the search; its trace tells the passes of the backbone.
        reward: what it maximises.
    """

    def __init__(self, name: str, generator: Generator, search: Search, reward: RewardEnsemble) -> None:
        self.name, self.generator, self.search, self.reward = name, generator, search, reward
        self.nfe = float("nan")

    def __call__(self, noise: Tensor, prompts: Sequence[str]) -> MethodOutput:
        result = self.search(self.generator, self.reward.total, prompts, noise, seeded(len(prompts)))
        self.nfe = result.trace[-1]["nfe"]
        return MethodOutput(result.images, self.search.kl_nats(noise, result.noises.to(noise)))
