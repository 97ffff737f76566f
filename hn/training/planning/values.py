"""Small values among fake tensors: lengths of prompts, masks, schedules."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn

from hn.utils.private.torch import (
    FakeTensorMode,
    OpOverload,
    TorchDispatchMode,
    schema_arguments,
    storage_address,
    tree_iter,
    unset_fake_temporarily,
)

_SMALL = 1 << 16
"""Elements of the largest tensor made of nothing that has values."""
_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class KnownValues(TorchDispatchMode):
    """Within a `FakeTensorMode` that takes real tensors, computes for real what depends on no fake one.

    How some pipelines run depends on values: how many tokens a prompt has, a mask, the noise levels of a schedule.
    These come from tokenizers and configurations, not from weights or images, so they are there. Tensors that are made
    of nothing (`torch.tensor`, `arange`, ...; neither random ones nor large ones) have values, and so has what is made
    of such tensors alone. Enter it after the `FakeTensorMode`; without one it changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        # Real tensors into which fake ones were written, by the address of their storage.
        self._overwritten: weakref.WeakValueDictionary[int, UntypedStorage] = weakref.WeakValueDictionary()

    def __torch_dispatch__(
        self,
        function: OpOverload,
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(options or {})
        if function is torch.ops.prim.device.default:  # most calls
            return function(*arguments)
        tensors = [value for value in tree_iter((arguments, options)) if isinstance(value, Tensor)]
        known = [tensor for tensor in tensors if self._has_values(tensor)]
        if len(known) == len(tensors) and (known or _is_small(function, arguments, options)):
            with unset_fake_temporarily():
                return function(*arguments, **options)
        if function in _INDEXING:
            positions = [each for index in arguments[1] for each in self._positions(index)]
            arguments = [arguments[0], positions, *arguments[2:]]
        for written in _written(function, arguments, options):
            if self._has_values(written):
                self._overwritten[storage_address(written.untyped_storage())] = written.untyped_storage()
        return function(*arguments, **options)

    def _has_values(self, tensor: Tensor) -> bool:
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type == "meta":
            return False
        return storage_address(tensor.untyped_storage()) not in self._overwritten

    def _positions(self, index: Tensor | None) -> Sequence[Tensor | None]:
        """An index, or of a mask the indices of what it chooses: where its values are known, so is how many."""
        if index is None or index.dtype != torch.bool or not self._has_values(index):
            return [index]
        with unset_fake_temporarily():
            return index.nonzero(as_tuple=True)


def _is_small(function: OpOverload, arguments: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether a function of no tensors makes few numbers, the same each time."""
    if torch.Tag.nondeterministic_seeded in function.tags:
        return False
    with FakeTensorMode():
        made = function(*arguments, **options)
    return all(value.numel() <= _SMALL for value in tree_iter(made) if isinstance(value, Tensor))


def _written(function: OpOverload, arguments: Sequence[Any], options: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that a function writes into."""
    names = schema_arguments(function)
    given = dict(zip((argument.name for argument in names), arguments, strict=False)) | dict(options)
    for argument in names:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (value for value in tree_iter(given.get(argument.name)) if isinstance(value, Tensor))
