"""Where to compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def find_device(name: str = "auto") -> torch.device:
    """The device of a name, checked to be there.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", or "auto" for the GPU (CUDA) if there is one, else the CPU.

    Raises:
        ValueError: if there is no such device; says which there are.
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
    """The numbers of a small tensor on the host, as soon as the device has come to them.

    From a CUDA device the copy is queued behind the work that makes the numbers, into pinned memory, and nobody waits
    until they are read. From other devices it is made at once.

    Args:
        tensor: of any device; what is written to it later does not count.
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
        """The numbers, nested as the tensor's dimensions are; waits for them, and for nothing that was queued later."""
        if self._done is not None:
            self._done.synchronize()
        return self._values.tolist()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device. To a CUDA device it goes through pinned memory, so that the host does not wait
    until the device has done what it was given before."""
    if device.type != "cuda" or tensor.device.type != "cpu" or torch.compiler.is_compiling():  # or exported
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
