"""A hypernetwork that acts on a few coefficients of the noise: nearly free."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hn.generators.base import Conditioning, Generator
from hn.generators.subspaces import LowFrequency
from hn.hypernets.base import Hypernet
from hn.hypernets.text_states import AttentionPool, TextReader
from hn.hypernets.token_shift import TokenShift, check_token_options


class SubspaceHypernet(Hypernet):
    """f = Q^T MLP(Q x0, text): an MLP from the lowest frequencies of the noise to changes of these.

    The text is the generator's token states, pooled by attention, and modulates every layer of the MLP. The size of the
    network does not depend on that of the image. The last layer is zero at the start, and so is f.

    Args:
        frequencies: n of the lowest n x n frequencies of each noise channel.
        width: of the MLP.
        layers: residual layers of the MLP.
        queries: of the attention that pools the text states.
        text_width: channels that the text states are projected to.
        token_frequencies: n of the lowest n x n frequencies of the noise that every token of the tokenizer shifts
            (`TokenShift`); 0 for none.
        token_rate: learning rate of the tokens' shifts, relative to the network's.

    Raises:
        ValueError: if a number is out of range.
    """

    extra_nfe: ClassVar[int] = 0  # no pass of the backbone

    def __init__(
        self,
        frequencies: int = 4,
        width: int = 256,
        layers: int = 2,
        queries: int = 4,
        text_width: int = 96,
        token_frequencies: int = 0,
        token_rate: float = 15.0,
    ) -> None:
        super().__init__()
        check_token_options(token_frequencies, token_rate)
        numbers = {"width": width, "layers": layers, "queries": queries, "text_width": text_width}
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        self.subspace = LowFrequency(frequencies)
        self.frequencies, self.width, self.layers = frequencies, width, layers
        self.queries, self.text_width = queries, text_width
        self.token_frequencies, self.token_rate = token_frequencies, token_rate

    def _build(self, generator: Generator) -> None:
        self.subspace.build(generator)
        with torch.device(generator.device):
            self.text = TextReader(generator, self.text_width)
            self.pool = AttentionPool(self.text_width, self.queries)
            self.read = nn.Sequential(
                nn.LayerNorm(self.queries * self.text_width),
                nn.Linear(self.queries * self.text_width, self.width),
                nn.SiLU(),
                nn.Linear(self.width, self.width),
            )
            self.into = nn.Linear(self.subspace.dimensions, self.width)
            self.blocks = nn.ModuleList(_ModulatedLayer(self.width) for _ in range(self.layers))
            self.norm = nn.LayerNorm(self.width)
            self.out = nn.Linear(self.width, self.subspace.dimensions)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
            self.token_shift = TokenShift.of(generator, self.token_frequencies, self.token_rate)

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        text = self.read(self.pool(*self.text(conditioning)))
        hidden = self.into(self.subspace.coefficients(noise).to(self.into.weight.dtype)) + text
        for block in self.blocks:
            hidden = block(hidden, text)
        f = self.subspace.expand(self.out(self.norm(hidden)))
        if self.token_shift is not None:
            f = f + self.token_shift(conditioning)
        return f.to(noise.dtype)

    def arguments(self) -> dict[str, Any]:
        names = ("frequencies", "width", "layers", "queries", "text_width", "token_frequencies", "token_rate")
        return {name: getattr(self, name) for name in names}


class _ModulatedLayer(nn.Module):
    """Residual MLP layer whose normalised input is scaled and shifted by the text.

    Args:
        width: W.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, text: Tensor) -> Tensor:
        """[B, W] of [B, W] and the text's summary [B, W]."""
        scale, shift = self.modulation(text).chunk(2, -1)
        return hidden + self.mlp(self.norm(hidden) * (1 + scale) + shift)
