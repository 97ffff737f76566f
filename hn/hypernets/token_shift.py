"""One trained shift of the noise for every token of the generator's tokenizer."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from hn.generators.base import Conditioning, Generator
from hn.generators.subspaces import LowFrequency
from hn.generators.tokens import TOKEN_IDS

BUCKETS = 32768
"""Most shifts; tokens of larger vocabularies share them."""


class TokenShift(nn.Module):
    """f = Q^T sum_t m[token t of the prompt], Q the lowest n x n frequencies of each noise channel.

    Words that decide where things are, like "left", act on the noise's low frequencies much in the same way in every
    prompt, and few evaluations show it, where a network has to learn first which of the text states tell them apart.
    Shifts are zero at the start. They are kept as `rate` times a parameter, so that with Adam, whose updates do not
    depend on the scale of gradients, they learn `rate` times as fast as the other parameters.

    Args:
        generator: whose tokenizer names the tokens.
        frequencies: n.
        rate: learning rate, relative to that of the other parameters.

    Raises:
        ValueError: if the generator has no tokenizer, or smaller noise.
    """

    def __init__(self, generator: Generator, frequencies: int, rate: float) -> None:
        super().__init__()
        self.subspace, self.rate = LowFrequency(frequencies), rate
        self.subspace.build(generator)
        generator.give_token_ids()
        self.table = nn.Parameter(torch.zeros(min(generator.token_count, BUCKETS), self.subspace.dimensions))

    @classmethod
    def of(cls, generator: Generator, frequencies: int, rate: float) -> Self | None:
        """The shifts that the options ask for; none with 0 frequencies."""
        return cls(generator, frequencies, rate) if frequencies else None

    def forward(self, conditioning: Conditioning) -> Tensor:
        """The sum of the prompts' shifts, [B, *noise_shape].

        Raises:
            ValueError: if the conditioning has no tokens.
        """
        if TOKEN_IDS not in conditioning:
            raise ValueError(
                "This conditioning has no token_ids: encode prompts once the hypernetwork is bound to the generator."
            )
        ids = conditioning[TOKEN_IDS]  # [B, L], negative where a prompt is over
        shifts = nn.functional.embedding(ids.clamp(min=0) % len(self.table), self.table)
        summed = (shifts * (ids >= 0)[..., None].to(shifts.dtype)).sum(1)
        return self.subspace.expand(self.rate * summed)


def check_token_options(frequencies: int, rate: float) -> None:
    """Raises:
    ValueError: if an option is out of range.
    """
    if frequencies < 0 or rate <= 0:
        raise ValueError(
            f"token_frequencies must be 0 (no shifts) or more, and token_rate above 0; got {frequencies} and {rate}."
        )
