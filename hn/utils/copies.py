"""Copies of a module that leave it alone: over the same values in memory, frozen, or on another device."""

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def copy_module(module: M, convert: Callable[[Tensor], Tensor]) -> M:
    """A deep copy of `module` with `convert(tensor)` in the place of each parameter and buffer.

    Tensors that several places share are shared in the copy too.

    Args:
        module: stays as it is.
        convert: gives an `nn.Parameter` for an `nn.Parameter`, or the tensor itself for it to be shared.
    """
    memo = {id(tensor): convert(tensor) for tensor in chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, memo)


def frozen_view(module: M) -> M:
    """A copy of `module` over the same values in memory: frozen, in eval mode, and a module tree of its own.

    Its parameters are other `nn.Parameter` objects over the same storage, so freezing them, switching modes, adding
    hooks or moving it leaves `module` as it is; a change of the values in place is seen in both. Buffers, and
    parameters of classes of their own (quantised ones), are the very tensors of `module`.

    Args:
        module: any module, parameters of any data type and on any device.
    """

    def view(tensor: Tensor) -> Tensor:
        return nn.Parameter(tensor.detach(), requires_grad=False) if type(tensor) is nn.Parameter else tensor

    return copy_module(module, view).eval()


def share_weights(module: M) -> M:
    """A deep copy of `module` whose parameters and buffers are the very tensors of the original.

    Layers of the copy can be wrapped or replaced without touching the original, and the weights are in memory once.
    Nothing has to be switched on and off to tell the two apart, so activation checkpointing recomputes the right one.
    """
    return copy_module(module, lambda tensor: tensor)


def on_device(module: M, device: torch.device) -> M:
    """A frozen copy of `module`, in eval mode, with parameters and buffers on `device`; `module` stays as it is."""

    def move(tensor: Tensor) -> Tensor:
        moved = tensor.detach().to(device)
        return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved

    return copy_module(module, move).eval()
