"""Inputs to try a generator's networks with."""

from __future__ import annotations

import torch
from torch import Tensor

from hn.generators.base import Conditioning, Generator
from hn.generators.tokens import TOKEN_IDS


def random_inputs(generator: Generator, batch_size: int, seed: int = 0) -> tuple[Tensor, Conditioning]:
    """Noise and conditioning of the shapes and data types that the generator's are of.

    Numbers are random, with the mean and spread of those of an empty prompt; tokens are random; masks and other
    integers are the empty prompt's.
    """
    rng = torch.Generator().manual_seed(seed)
    noise = generator.sample_noise(batch_size, rng)
    conditioning = generator.encode([""] * batch_size)
    for name, tensor in conditioning.items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
            own = tensor.double()
            conditioning[name] = (own.mean() + own.std() * drawn.to(own.device)).to(tensor.dtype)
        elif name == TOKEN_IDS:
            drawn = torch.randint(generator.token_count, tensor.shape, generator=rng)
            conditioning[name] = drawn.to(tensor.device)
    return noise, conditioning
