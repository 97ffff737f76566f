"""How compact hypernetworks read the prompt: the generator's own text states, brought to a small width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from hn.generators.base import Conditioning, Generator


class TextReader(nn.Module):
    """Token states of the generator's text encoder, normalised, projected and passed through a residual MLP.

    Args:
        generator: whose conditioning is read.
        width: W, channels of the result.
    """

    def __init__(self, generator: Generator, width: int) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(generator.text_width), nn.Linear(generator.text_width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self._generator = (generator,)  # in a tuple, so that it does not become part of this module

    def forward(self, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        """Token states [B, L, W], and a mask [B, L] that is False for padding (None: no token is masked)."""
        states, mask = self._generator[0].text_states(conditioning)
        projected = self.project(self.norm(states.to(self.project.weight.dtype)))
        return projected + self.mlp(projected), mask


class Attention(nn.Module):
    """Multi-head attention of B sequences to B contexts.

    Args:
        width: W, of the queries and the result.
        context_width: C, of the context.
        heads: of which W is a multiple.
    """

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_and_values = nn.Linear(context_width, 2 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, sequence: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N, W] of sequence [B, N, W] and context [B, L, C]; mask [B, L] is False where the context is padding."""
        keys, values = self.keys_and_values(context).chunk(2, -1)
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.queries(sequence), keys, values)
        )
        allowed = None if mask is None else mask[:, None, None].bool()
        attended = scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.output(attended.transpose(1, 2).flatten(2))


class AttentionPool(nn.Module):
    """Pools token states with Q trained queries.

    Args:
        width: W, of the token states.
        queries: Q.
    """

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.keys = nn.Linear(width, width, bias=False)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """[B, Q * W] of token states [B, L, W]; mask [B, L] is False for padding."""
        logits = self.keys(states) @ self.queries.T  # [B, L, Q]
        if mask is not None:
            logits = logits.masked_fill(~mask.bool()[..., None], float("-inf"))
        return torch.einsum("blq,blw->bqw", logits.softmax(1), states).flatten(1)
