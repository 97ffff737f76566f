import pytest
import torch

from hn.evaluation import peak_memory
from hn.evaluation.peak_memory import PeakMemory

CPU = torch.device("cpu")
MEBIBYTE = 2**20


@pytest.mark.skipif(PeakMemory(CPU).bytes() is None, reason="this system does not tell a process's peak of memory")
def test_what_was_freed_before_does_not_count_and_what_is_freed_since_does():
    torch.ones(256 * MEBIBYTE // 4)
    peak = PeakMemory(CPU)
    before = peak.bytes()
    torch.ones(64 * MEBIBYTE // 4)
    assert 60 * MEBIBYTE < peak.bytes() - before < 80 * MEBIBYTE
    assert PeakMemory(CPU).bytes() - before < 20 * MEBIBYTE


def test_other_devices_and_systems_have_none(monkeypatch, tmp_path):
    assert PeakMemory(torch.device("meta")).bytes() is None
    monkeypatch.setattr(peak_memory, "_PROCESS", tmp_path / "none")
    assert PeakMemory(CPU).bytes() is None
