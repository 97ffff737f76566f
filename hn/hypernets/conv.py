"""A small hypernetwork of convolutions and attention that reads the generator's text states."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hn.generators.base import Conditioning, Generator
from hn.generators.subspaces.low_frequency import cosine_basis
from hn.hypernets.base import Hypernet
from hn.hypernets.text_states import Attention, TextReader
from hn.hypernets.token_shift import TokenShift, check_token_options

POSITIONS = 8
"""Cosines of each coordinate that tell a place of the grid."""


class ConvHypernet(Hypernet):
    """f from residual blocks of convolutions, self-attention and cross-attention to the generator's text states.

    The network works on a grid of at most `grid` x `grid`: noise of larger images enters by its lowest frequencies,
    brought to that grid by an orthonormal cosine transform (so it stays N(0, I)), and f leaves the same way. The size
    of the network does not depend on that of the image, and no backbone pass is needed. The last convolution is zero at
    the start, and so is f.

    Args:
        width: channels of the blocks; a multiple of 8 and of `heads`.
        blocks: number of blocks.
        heads: of every attention.
        grid: largest height and width of the grid.
        text_width: channels that the text states are projected to.
        self_attentions: number of blocks with self-attention, the last ones; all if not given. Fewer are faster.
        gradient_checkpointing: recompute f in the backward pass instead of keeping its activations.
        token_frequencies: n of the lowest n x n frequencies of the noise that every token of the tokenizer shifts
            (`TokenShift`); 0 for none.
        token_rate: learning rate of the tokens' shifts, relative to the network's.

    Raises:
        ValueError: if a number is out of range, or the width is no multiple.
    """

    extra_nfe: ClassVar[int] = 0  # no pass of the backbone
    rows: Tensor
    columns: Tensor
    positions: Tensor

    def __init__(
        self,
        width: int = 64,
        blocks: int = 3,
        heads: int = 4,
        grid: int = 16,
        text_width: int = 96,
        self_attentions: int | None = None,
        gradient_checkpointing: bool = False,
        token_frequencies: int = 0,
        token_rate: float = 15.0,
    ) -> None:
        super().__init__()
        check_token_options(token_frequencies, token_rate)
        numbers = {"width": width, "blocks": blocks, "heads": heads, "grid": grid, "text_width": text_width}
        for name, value in {**numbers, "self_attentions": self_attentions}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        if width % math.lcm(8, heads):
            raise ValueError(f"width must be a multiple of 8 and of heads ({heads}), not {width}.")
        self.width, self.blocks, self.heads, self.grid, self.text_width = width, blocks, heads, grid, text_width
        self.self_attentions, self.gradient_checkpointing = self_attentions, gradient_checkpointing
        self.token_frequencies, self.token_rate = token_frequencies, token_rate

    def _build(self, generator: Generator) -> None:
        channels, height, width = generator.spatial_shape
        rows, columns = min(self.grid, height), min(self.grid, width)
        with torch.device(generator.device):
            self.text = TextReader(generator, self.text_width)
            self.into = nn.Conv2d(channels, self.width, 3, padding=1)
            self.place = nn.Linear(2 * POSITIONS, self.width)
            first = 0 if self.self_attentions is None else self.blocks - self.self_attentions  # with self-attention
            self.layers = nn.ModuleList(
                _Block(self.width, self.text_width, self.heads, number >= first) for number in range(self.blocks)
            )
            self.norm = nn.GroupNorm(8, self.width)
            self.out = nn.Conv2d(self.width, channels, 3, padding=1)
            for weight in self.out.parameters():
                nn.init.zeros_(weight)
            self.token_shift = TokenShift.of(generator, self.token_frequencies, self.token_rate)
        constants = {
            "rows": resampling(height, rows),
            "columns": resampling(width, columns),
            "positions": grid_positions(rows, columns),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant.float().to(generator.device), persistent=False)

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._perturbation, noise, conditioning, use_reentrant=False, preserve_rng_state=False)
        return self._perturbation(noise, conditioning)

    def _perturbation(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        text, mask = self.text(conditioning)
        grid = self._resample("hy,bcyx,wx->bchw", self.generator.to_spatial(noise))
        grid = grid.contiguous(memory_format=torch.channels_last)  # as attention has it, so nothing is copied between
        hidden = self.into(grid) + self.place(self.positions).permute(2, 0, 1)
        for layer in self.layers:
            hidden = layer(hidden, text, mask)
        f = self._resample("hy,bchw,wx->bcyx", self.out(nn.functional.silu(self.norm(hidden))))
        f = self.generator.from_spatial(f)
        if self.token_shift is not None:
            f = f + self.token_shift(conditioning)
        return f.to(noise.dtype)

    def _resample(self, equation: str, values: Tensor) -> Tensor:
        rows, columns = self.rows, self.columns
        values = values.to(rows.dtype)
        if max(self.generator.spatial_shape[1:]) <= self.grid:  # the transform and its inverse are the identity
            return values
        return torch.einsum(equation, rows, values, columns)

    def arguments(self) -> dict[str, Any]:
        names = ("width", "blocks", "heads", "grid", "text_width", "self_attentions", "gradient_checkpointing")
        return {name: getattr(self, name) for name in (*names, "token_frequencies", "token_rate")}


class _Block(nn.Module):
    """Residual convolutions, self-attention over the grid and cross-attention to the text.

    Args:
        width: channels of the grid.
        text_width: channels of the text states.
        heads: of both attentions.
        with_self_attention: whether there is self-attention.
    """

    def __init__(self, width: int, text_width: int, heads: int, with_self_attention: bool) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.with_self_attention = with_self_attention
        if with_self_attention:
            self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, width, heads)
        self.cross_norm, self.cross_attention = nn.LayerNorm(width), Attention(width, text_width, heads)

    def forward(self, grid: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """[B, W, h, w] of the grid [B, W, h, w] and the text states [B, L, C]."""
        grid = grid + self.convolutions(grid)
        places = grid.flatten(2).transpose(1, 2)
        if self.with_self_attention:
            normed = self.self_norm(places)
            places = places + self.self_attention(normed, normed)
        places = places + self.cross_attention(self.cross_norm(places), text, mask)
        return places.transpose(1, 2).unflatten(2, grid.shape[2:])


def resampling(size: int, fewer: int) -> Tensor:
    """R [fewer, size] with orthonormal rows: keeps the lowest `fewer` cosine frequencies of `size` values."""
    return cosine_basis(fewer, fewer).T @ cosine_basis(size, fewer)


def grid_positions(rows: int, columns: int) -> Tensor:
    """Features of every place of a grid, [rows, columns, 2 * POSITIONS]: cosines of both relative coordinates."""

    def cosines(size: int) -> Tensor:
        place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        return torch.cos(math.pi * place[:, None] * torch.arange(1, POSITIONS + 1))

    vertical = cosines(rows)[:, None].expand(rows, columns, POSITIONS)
    horizontal = cosines(columns)[None].expand(rows, columns, POSITIONS)
    return torch.cat([vertical, horizontal], -1)
