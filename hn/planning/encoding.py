"""Conditioning without values, as a pipeline's text encoders would give it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hn.generators.base import Conditioning
from hn.generators.families import Family
from hn.planning.fake import fake_copy
from hn.planning.values import KnownValues


def fake_conditioning(
    family: Family, pipe: DiffusionPipeline, prompts: Sequence[str], mode: FakeTensorMode
) -> Conditioning:
    """Fake tensors in `mode`, in the shapes and data types of the prompts' conditioning.

    Args:
        family: the pipeline's facts.
        pipe: with its tokenizers and text encoders, these on the meta device; left as it is.
        prompts: B prompts.
        mode: of the tensors.
    """
    pipe = copy.copy(pipe)
    for name in family.text_parts:
        if isinstance(part := getattr(pipe, name), nn.Module):
            setattr(pipe, name, fake_copy(part, mode))
    with mode, KnownValues(), torch.no_grad():
        return family.encode(pipe, list(prompts), torch.device("cpu"))
