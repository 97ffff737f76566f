import mmap

import pytest
import torch

from hn.evaluation import peak_memory
from hn.evaluation.peak_memory import PeakMemory

CPU = torch.device("cpu")
MEBIBYTE = 2**20


def take_and_free(mebibytes: int) -> None:
    """From the system itself: what is freed to the C library may stay with the process."""
    with mmap.mmap(-1, mebibytes * MEBIBYTE) as memory:
        for start in range(0, len(memory), mmap.PAGESIZE):
            memory[start] = 1


@pytest.mark.skipif(PeakMemory(CPU).bytes() is None, reason="this system does not tell a process's peak of memory")
def test_what_was_freed_before_does_not_count_and_what_is_freed_since_does():
    take_and_free(256)
    peak = PeakMemory(CPU)
    before = peak.bytes()
    take_and_free(64)
    assert 60 * MEBIBYTE < peak.bytes() - before < 80 * MEBIBYTE
    assert PeakMemory(CPU).bytes() - before < 20 * MEBIBYTE


def test_other_devices_and_systems_have_none(monkeypatch, tmp_path):
    assert PeakMemory(torch.device("meta")).bytes() is None
    monkeypatch.setattr(peak_memory, "_PROCESS", tmp_path / "none")
    assert PeakMemory(CPU).bytes() is None
