"""Conditioning without values, as a pipeline's text encoders would give it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import nn

from hn.generators.base import Conditioning
from hn.generators.families import Family
from hn.training.planning.fake import fake_copy
from hn.training.planning.live_memory import LiveMemory
from hn.training.planning.values import KnownValues
from hn.utils.private.torch import FakeTensorMode

PROMPT = "a cat"
_MOST_WORDS = 4096  # tokenizers without a window of their own say that it is 1e30


def fake_conditioning(
    family: Family, pipe: DiffusionPipeline, prompts: Sequence[str], mode: FakeTensorMode
) -> tuple[Conditioning, int]:
    """Fake tensors in `mode`, in the shapes and data types of the prompts' conditioning, and the bytes of the tensors
    that are alive at most while it is made, without the weights.

    Args:
        family: the pipeline's facts.
        pipe: with its tokenizers and text encoders, these on the meta device; left as it is.
        prompts: B prompts.
        mode: of the tensors.
    """
    pipe, weights = copy.copy(pipe), []
    for name in family.text_parts:
        if isinstance(part := getattr(pipe, name), nn.Module):
            fake = fake_copy(part, mode)
            setattr(pipe, name, fake)
            weights += [*fake.parameters(), *fake.buffers()]
    with mode, KnownValues(), LiveMemory(weights) as memory, torch.no_grad():
        return family.encode(pipe, list(prompts), torch.device("cpu")), memory.peak


def usual_prompt(family: Family, pipe: DiffusionPipeline) -> str:
    """A prompt to plan with: one that fills the text encoders' window, where shorter ones take less memory.

    Args:
        family: the pipeline's facts.
        pipe: with its tokenizers.
    """
    if not family.reads_conditioning:
        return PROMPT  # prompts are padded to the same length
    longest = max(family.max_tokens(tokenizer) for tokenizer in family.tokenizers(pipe))
    return " ".join([PROMPT] * min(longest, _MOST_WORDS))
