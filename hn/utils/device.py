"""The device to compute on, and asynchronous copies between host and device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def find_device(name: str = "auto") -> torch.device:
    """The device of this name, if the machine has it.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", or "auto" for the GPU (CUDA) if there is one, else the CPU.

    Raises:
        ValueError: if the machine has no such device; lists those it has.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda" if len(there) > 1 and there[1].startswith("cuda") else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if (
        device is None
        or not any(found.split(":")[0] == device.type for found in there)
        or (device.index is not None and str(device) not in there)
    ):
        raise ValueError(f"There is no device {name!r} here; choose auto or one of {', '.join(there)}.")
    return device


class HostCopy:
    """An asynchronous copy of a small tensor to the host.

    From a CUDA device, the copy goes to pinned memory and is queued on the current stream: the host waits in `read`
    only. From other devices, it is made at once.

    Args:
        tensor: on any device; later changes of it do not affect the copy.
    """

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._done = torch.cuda.Event() if tensor.is_cuda else None
        if self._done is None:
            self._values = tensor.to("cpu", copy=True)
        else:
            self._values = tensor.to("cpu", non_blocking=True)  # which PyTorch pins
            self._done.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> list[Any]:
        """The values as nested lists (`Tensor.tolist`); waits for the copy, but not for work queued after it."""
        if self._done is not None:
            self._done.synchronize()
        return self._values.tolist()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. From the CPU to a CUDA device, the copy is asynchronous (through pinned memory): the
    host does not wait for the work that is queued there."""
    if device.type != "cuda" or tensor.device.type != "cpu" or torch.compiler.is_compiling():  # or exported
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
