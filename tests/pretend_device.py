"""A device like a GPU as far as waiting goes, on any machine: its work is done on the CPU, and where the host would
have to wait for a GPU, that is noted."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretend"
DEVICE = f"{NAME}:0"

aten = torch.ops.aten
# Operations whose results are numbers of the host, or whose results' shapes are.
_READS = {
    aten._local_scalar_dense,  # item, float, bool, int
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten.unique_consecutive,
    aten.unique_dim,
}
_INDICES = {aten._index_put_impl_, aten.index, aten.index_put, aten.index_put_}


class PretendDevice(TorchDispatchMode):
    """The device, for a process of its own: it has to be there before the first backward pass, and stays.

    Attributes:
        waits: where the host would have waited so far: the innermost lines of Python outside PyTorch, as "file: code".
    """

    current: PretendDevice

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        PretendDevice.current = self
        _setup_privateuseone_for_python_backend(NAME, _Module())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is made on the CPU and copied

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(options or {})
        tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
        target = torch.device(options["device"]) if options.get("device") is not None else None
        if not any(isinstance(t, _Pretended) for t in tensors) and (target is None or target.type != NAME):
            return function(*arguments, **options)
        kind = function.overloadpacket
        if self._waits_for(kind, arguments, options, tensors, target):
            self._note()
        if target is not None:
            options["device"] = torch.device("cpu")
        result = function(*_inner(arguments), **_inner(options))
        if kind is aten._local_scalar_dense or (target is not None and target.type != NAME):
            return result
        if kind is aten.copy_ and not isinstance(arguments[0], _Pretended):
            return arguments[0]
        return return_and_correct_aliasing(function, arguments, options, tree_map_only(Tensor, _Pretended, result))

    def _waits_for(
        self,
        kind: Any,
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        tensors: Iterable[Tensor],
        target: torch.device | None,
    ) -> bool:
        """Whether the host has to wait in an operation; copies are taken for such to and from memory that is pinned."""
        if kind in _INDICES:
            return any(i.dtype in (torch.bool, torch.uint8) for i in arguments[1] if i is not None)
        devices = {tensor.device.type for tensor in tensors}
        if kind is aten._to_copy and target is not None:
            return len(devices | {target.type}) > 1 and not options.get("non_blocking", False)
        if kind is aten.copy_:
            return len(devices) > 1 and not (len(arguments) > 2 and arguments[2])
        return kind in _READS

    def _note(self) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename][:-2]
        self.waits.append(f"{frames[-1].filename}: {frames[-1].line}")

    def move(self, module: nn.Module) -> None:
        """Move a module's parameters and buffers to the device; those that are shared stay so."""
        moved: dict[int, tuple[Tensor, Tensor]] = {}  # with the originals, whose ids must not be given to others
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = moved.setdefault(id(tensor), (self._moved(tensor), tensor))[0]

    @staticmethod
    def _moved(tensor: Tensor) -> Tensor:
        copy = _Pretended(tensor.detach())
        return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


class PretendStrategy(SingleDeviceStrategy):
    """Lightning's way to train on the device."""

    def __init__(self) -> None:
        super().__init__(DEVICE, accelerator=_PretendAccelerator())

    def model_to_device(self) -> None:
        PretendDevice.current.move(self.model)


class _PretendAccelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Pretended(Tensor):
    """A tensor of the device; its numbers are those of `inner`, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **layout)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types: Any, arguments: Any = (), options: Any = None) -> Any:
        # Where no mode is active, as in a backward pass that another thread runs.
        return PretendDevice.current.__torch_dispatch__(function, types, arguments, options)


def _inner(value: Any) -> Any:
    return tree_map_only(_Pretended, lambda tensor: tensor.inner, value)
