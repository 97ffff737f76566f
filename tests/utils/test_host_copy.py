import pytest
import torch

from hn.utils.device import HostCopy, to_device

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    """A device; on a GPU whatever waits for it raises an error."""
    device = torch.device(request.param)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    yield device
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")


def test_numbers_are_those_of_when_they_were_copied(device):
    numbers = torch.full((2, 2), 3.0, device=device, requires_grad=True)
    copy = HostCopy(numbers)
    with torch.no_grad():
        numbers += 1
    assert copy.read() == copy.read() == [[3.0, 3.0], [3.0, 3.0]]


def test_what_goes_to_a_device_is_there_unchanged(device):
    numbers = torch.arange(6.0, dtype=torch.float64).view(2, 3)[:, 1:]
    there = to_device(numbers, device)
    assert there.device.type == device.type and there.dtype == torch.float64
    assert HostCopy(there).read() == [[1.0, 2.0], [4.0, 5.0]]
    assert to_device(there, device) is there
