import colorsys

import pytest
import torch

from hn.rewards import SaturationReward


def test_is_the_saturation_of_hsv_but_for_the_smallest_step() -> None:
    images = torch.rand(4, 3, 5, 7, dtype=torch.float64) * 0.5 + 0.5
    expected = [
        sum(
            colorsys.rgb_to_hsv(*pixel)[1] * max(pixel) / (max(pixel) + 1 / 255)
            for pixel in image.flatten(1).T.tolist()
        )
        / 35
        for image in images
    ]
    assert SaturationReward()(images, [""] * 4).tolist() == pytest.approx(expected, rel=1e-9)


def test_grey_black_and_white_have_none_and_bounded_gradients() -> None:
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 0.5, 1.0)]).requires_grad_(True)
    scores = SaturationReward()(images, [""] * 3)
    assert scores.tolist() == [0, 0, 0]
    scores.sum().backward()
    assert images.grad.abs().max() <= 255 / 16
    pure = torch.zeros(1, 3, 4, 4)
    pure[:, 1] = 1
    assert SaturationReward()(pure, [""]).item() == pytest.approx(1, abs=1 / 255)
