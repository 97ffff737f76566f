import pytest
import torch
from torch import nn

from hn.rewards import RednessReward


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8)])
def test_other_shapes_than_rgb_batches_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes images \[B, 3, H, W\]"):
        RednessReward()(torch.zeros(shape), [""])


def test_one_prompt_per_image() -> None:
    with pytest.raises(ValueError, match="2 images, prompts 1"):
        RednessReward()(torch.zeros(2, 3, 4, 4), ["a"])
    with pytest.raises(ValueError, match="2 images, prompts 'ab'"):
        RednessReward()(torch.zeros(2, 3, 4, 4), "ab")


def test_stays_in_eval_mode_inside_a_training_module() -> None:
    reward = RednessReward()
    nn.ModuleList([reward]).train()
    assert not reward.training
