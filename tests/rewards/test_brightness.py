import pytest
import torch

from hn.rewards import BrightnessReward


def test_luma_of_pure_colours() -> None:
    images = torch.zeros(5, 3, 2, 3)
    images[0, 0] = images[1, 1] = images[2, 2] = 1
    images[3] = 0.3
    images[4, :, 0] = 1  # half of it white
    expected = [0.2126, 0.7152, 0.0722, 0.3, 0.5]
    assert BrightnessReward()(images, [""] * 5).tolist() == pytest.approx(expected, abs=1e-6)
