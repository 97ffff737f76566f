from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hn.rewards.ensemble import RewardOutput
from hn.rewards.in_parts import score_in_parts
from hn.training.planning.live_memory import LiveMemory

PROMPTS = ["a", "bb", "ccc", "dddd", "eeeee"]


def score(inputs: Tensor, prompts: Sequence[str]) -> RewardOutput:
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=inputs.dtype)
    sines = inputs.sin().flatten(1).mean(1)
    return RewardOutput(2 * sines * lengths, {"sine": sines, "length": lengths})


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_parts_give_the_scores_and_gradients_of_the_whole(size: int) -> None:
    inputs = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)  # something before the scored inputs
    whole, parts = score(inputs * scale, PROMPTS), score_in_parts(inputs * scale, PROMPTS, score, size)
    torch.testing.assert_close(parts.total, whole.total)
    assert parts.components.keys() == whole.components.keys()
    for name, component in parts.components.items():
        torch.testing.assert_close(component, whole.components[name])
        assert not component.requires_grad
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)  # each score's gradient is its own sample's
    gradients = [torch.autograd.grad((output.total * weights).sum(), (inputs, scale)) for output in (whole, parts)]
    torch.testing.assert_close(*gradients)


def test_one_part_is_in_memory_at_a_time() -> None:
    def peak(size: int) -> int:
        with LiveMemory() as memory:
            inputs = torch.randn(4, 256).requires_grad_()
            scored = score_in_parts(inputs, PROMPTS[:4], lambda x, p: score(x.exp().exp().exp().exp(), p), size)
            scored.total.sum().backward()
            return memory.peak

    assert peak(1) < 0.6 * peak(4)
