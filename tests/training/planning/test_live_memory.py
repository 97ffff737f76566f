import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hn.training.planning.live_memory import LiveMemory

KIB = 1024  # 256 float32 numbers


def test_tensors_count_as_long_as_they_live() -> None:
    with LiveMemory() as memory:
        a = torch.zeros(256)
        b = a + 1
        assert (memory.now, memory.peak) == (2 * KIB, 2 * KIB)
        del a
        assert (memory.now, memory.peak) == (KIB, 2 * KIB)
        b = torch.cat([b, b])  # 1 + 2 are alive while it is made
        assert (memory.now, memory.peak) == (2 * KIB, 3 * KIB)


def test_views_and_changes_in_place_take_nothing() -> None:
    with LiveMemory() as memory:
        a = torch.zeros(16, 16)
        a.T.add_(1)
        view = a[:1]
        del a
        assert memory.now == memory.peak == KIB  # the view keeps all of it
        del view
        assert memory.now == 0


def test_known_tensors_do_not_count() -> None:
    weight = torch.zeros(256)
    with LiveMemory([weight]) as memory:
        view = weight.view(16, 16)
        assert memory.now == 0
        product = view @ view
        assert memory.now == KIB
        del product
        assert memory.now == 0


@pytest.mark.parametrize("fake", [False, True])
def test_what_the_backward_pass_needs_is_alive_until_then(fake: bool) -> None:
    with FakeTensorMode() if fake else nullcontext():
        weight, x = nn.Parameter(torch.ones(16, 16)), torch.ones(16, 16)
        with LiveMemory([weight, x]) as memory:
            hidden = (x @ weight).exp()  # keeps its output; the product before it is gone
            assert (memory.now, memory.peak) == (KIB, 2 * KIB)
            gone = weakref.ref(hidden)
            loss = hidden.sum()
            del hidden
            assert gone() is None
            assert memory.now == KIB + 4  # for the backward pass, though no name is left
            (gradient,) = torch.autograd.grad(loss, weight)
            assert memory.now == KIB + 4  # the gradient, and the loss
            assert gradient.shape == (16, 16)
