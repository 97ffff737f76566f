"""Private names of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, UntypedStorage, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass, transform_subclass
from torch.utils._pytree import tree_iter

__all__ = [
    "ApplyHook",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensorMode",
    "OpOverload",
    "TorchDispatchMode",
    "foreach_mul_",
    "foreach_norm",
    "is_traceable_wrapper_subclass",
    "schema_arguments",
    "storage_address",
    "supports_amp_scaling",
    "transform_subclass",
    "tree_iter",
    "unset_fake_temporarily",
]


class ApplyHook(nn.Module):
    """A module that is told when `.to()`, `.cuda()`, `.half()` and the like convert its tensors.

    PyTorch has no public hook for it. All these methods call `_apply`, also for a module inside another one.
    """

    def before_apply(self, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Called before each tensor is replaced by `convert(tensor)`; returns the conversion to use."""
        return convert

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(self.before_apply(fn), recurse)


def storage_address(storage: UntypedStorage) -> int:
    """A number that differs between all storages that are alive, also those of fake tensors, which have no data."""
    return storage._cdata


def schema_arguments(function: OpOverload) -> Sequence[Any]:
    """The arguments in an operator's schema, with `name` and `alias_info`, which says whether they are written to."""
    return function._schema.arguments


def foreach_norm(tensors: Sequence[Tensor], order: float) -> Sequence[Tensor]:
    """The vector norm of each tensor, in a few kernels for all of them; at least one tensor."""
    return torch._foreach_norm(tensors, order)


def foreach_mul_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply tensors by a scalar tensor in place, in a few kernels for all of them."""
    torch._foreach_mul_(tensors, factor)


def supports_amp_scaling(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser's own kernels unscale gradients and skip a step, as `GradScaler` asks them to."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)
