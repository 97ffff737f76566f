"""The tokens of prompts, for networks that read them beside the text encoder's states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hn.generators.base import Conditioning

TOKEN_IDS = "token_ids"
"""The name in the conditioning of the tokens [B, L], int64; `NO_TOKEN` where the prompt is over."""

NO_TOKEN = -1


def token_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int) -> Tensor:
    """Tokens of B prompts without special ones, [B, length] int64, cut or filled with `NO_TOKEN`."""
    ids = tokenizer(list(prompts), add_special_tokens=False, truncation=True, max_length=length).input_ids
    return torch.tensor([[*each, *[NO_TOKEN] * (length - len(each))] for each in ids])


def without_token_ids(conditioning: Conditioning) -> Conditioning:
    """What the generator itself takes."""
    return {name: tensor for name, tensor in conditioning.items() if name != TOKEN_IDS}
