"""Models with shapes and no values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from hn.utils.copies import copy_module
from hn.utils.private.torch import FakeTensorMode, is_traceable_wrapper_subclass, transform_subclass

M = TypeVar("M", bound=nn.Module)


def fake_copy(model: M, mode: FakeTensorMode) -> M:
    """A copy of a model, on any device, whose parameters and buffers are fake tensors on the CPU; nothing is allocated.

    Tensors that several places share are shared in the copy, and quantised ones are quantised there. Other tensors,
    which are no part of a module, are copied.

    Args:
        model: its tensors' shapes and data types count alone; on the meta device as a rule.
        mode: the copy works within it.
    """

    def fake(tensor: Tensor) -> Tensor:
        with mode:
            return _fake(tensor)

    return copy_module(model, fake)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; those that several places share count once, quantised ones what
    they are kept as."""
    whole = chain(model.parameters(), model.buffers())
    tensors = {id(tensor): tensor for each in whole for tensor in plain_tensors(each)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors with memory of their own that a quantised one is made of, integers and scales; others themselves."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(tensor, name))


def _fake(tensor: Tensor) -> Tensor:
    if is_traceable_wrapper_subclass(tensor):
        empty = transform_subclass(tensor, lambda _name, part: _fake(part))
    else:
        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
