"""A generator that is known as a function alone, as an exported program is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hn.generators.base import Conditioning, Generator


class FunctionGenerator(Generator):
    """Makes another generator's images, without gradients, and shows nothing of its networks."""

    differentiable = False
    revision = None

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.name, self.noise_shape, self.steps = "function", generator.noise_shape, generator.steps
        self._function = (generator,)  # in a tuple, so that it does not become part of this module

    @property
    def text_width(self) -> int:
        return self._function[0].text_width

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return self._function[0].encode(prompts)

    @torch.no_grad()
    def generate(self, noise: Tensor, conditioning: Conditioning, steps=None, rng=None) -> Tensor:
        return self._function[0].generate(noise, conditioning, steps, rng)
