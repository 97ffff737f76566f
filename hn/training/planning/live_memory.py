"""Bytes of the tensors that are alive, as operations make and drop them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hn.training.planning.fake import plain_tensors
from hn.utils.private.torch import TorchDispatchMode, storage_address, tree_iter


class LiveMemory(TorchDispatchMode):
    """Counts the storages that operations make, from when they are made until the last tensor on them is gone.

    Works on real tensors and on fake ones, which have shapes and no values. What operations need for themselves alone,
    and what an allocator wastes, is not seen.

    Args:
        known: tensors that are there before and after, like weights; they do not count.

    Attributes:
        now: bytes that are alive.
        peak: the most that were alive at a time.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        # Kept, so that no other storage gets its address.
        self._known = [tensor.untyped_storage() for each in known for tensor in plain_tensors(each)]
        self._sizes = {storage_address(storage): 0 for storage in self._known}

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        output = function(*arguments, **(options or {}))
        for value in tree_iter(output):
            if isinstance(value, Tensor):
                for tensor in plain_tensors(value):
                    self._count(tensor)
        return output

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage_address(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
