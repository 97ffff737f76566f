"""The most memory that a piece of work took."""

from __future__ import annotations

from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


class PeakMemory:
    """Counts from the moment it is made: on a GPU what PyTorch has allocated there, weights included; on a CPU, where
    the system is Linux, the process's resident memory, all that it has loaded included.

    Args:
        device: of the work. Its counter starts anew, for others who read it too.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._can_count = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._can_count = device.type == "cpu" and _start_anew()

    def bytes(self) -> int | None:
        """The peak so far; None on devices and systems that do not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _peak_of_process() if self._can_count else None


def _start_anew() -> bool:
    """Whether the system takes the order to set the peak back to what is resident now (proc(5), clear_refs)."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_of_process() -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
