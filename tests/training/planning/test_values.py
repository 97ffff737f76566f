import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from hn.training.planning.values import KnownValues


@pytest.fixture
def fake() -> Tensor:
    """A fake [2, 3] tensor, in whose mode, with known values, a test runs."""
    with FakeTensorMode(allow_non_fake_inputs=True), KnownValues():
        yield torch.randn(2, 3)


def test_what_is_made_of_numbers_has_values_and_what_is_made_of_a_fake_tensor_has_none(fake: Tensor) -> None:
    lengths = torch.tensor([2, 1])
    assert lengths.cumsum(0).tolist() == [2, 3]
    assert torch.arange(3).sum().item() == 3
    product = fake * torch.full((3,), 2.0)
    assert isinstance(product, FakeTensor)
    assert product.shape == (2, 3)
    with pytest.raises(DataDependentOutputException):
        product.sum().item()


def test_random_and_large_tensors_are_fake(fake: Tensor) -> None:
    assert isinstance(torch.randn(2), FakeTensor)
    assert isinstance(torch.zeros(1 << 20), FakeTensor)
    assert not isinstance(torch.zeros(1 << 10), FakeTensor)


def test_a_known_mask_chooses_as_many_as_it_has(fake: Tensor) -> None:
    rows, both = torch.tensor([True, False]), torch.tensor([[True, False, True], [False, True, False]])
    assert fake[rows].shape == (1, 3)
    assert fake[both].shape == (3,)
    fake[both] = 1.0
    assert fake.shape == (2, 3)
    with pytest.raises(DynamicOutputShapeException):
        fake[fake > 0]


def test_what_a_fake_tensor_was_written_into_has_no_values_any_more(fake: Tensor) -> None:
    whole = torch.zeros(4, 3)
    view, other = whole[2:], torch.zeros(2, 3)
    assert whole.sum().item() == 0
    whole[:2] = fake
    for changed in (whole, view):
        with pytest.raises(DataDependentOutputException):
            changed.sum().item()
    fake += other  # which is only read
    assert other.sum().item() == 0


def test_without_fake_tensors_nothing_changes() -> None:
    x = torch.rand(2, 3, requires_grad=True)
    with KnownValues():
        y = (x[torch.tensor([True, False])] + torch.randn(3)).square().sum()
        y.backward()
    assert y.item() > 0
    assert (x.grad != 0).any(dim=1).tolist() == [True, False]
