"""A frozen module tree over the values of another one, which is left alone."""

import copy
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def frozen_view(module: M) -> M:
    """A copy of `module` over the same values in memory: frozen, in eval mode, and a module tree of its own.

    Its parameters are other `nn.Parameter` objects over the same storage, so freezing them, switching modes, adding
    hooks or moving it leaves `module` as it is; a change of the values in place is seen in both. Buffers, and
    parameters of classes of their own (quantised ones), are the very tensors of `module`.

    Args:
        module: any module, parameters of any data type and on any device.
    """
    memo = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    for parameter in module.parameters():
        if type(parameter) is nn.Parameter:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(module, memo=memo).eval()


def share_weights(module: M) -> M:
    """A deep copy of `module` whose parameters and buffers are the very tensors of the original.

    Layers of the copy can be wrapped or replaced without touching the original, and the weights are in memory once.
    Nothing has to be switched on and off to tell the two apart, so activation checkpointing recomputes the right one.
    """
    tensors = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, memo=tensors)


def on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """A frozen copy of `module`, in eval mode, with parameters and buffers on `device`; `module` stays as it is."""
    memo = {}
    for tensor in chain(module.parameters(), module.buffers()):
        moved = tensor.detach().to(device)
        memo[id(tensor)] = nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
    return copy.deepcopy(module, memo=memo).eval()
