import torch

from hn.miniature.recipe.degrade import degrade
from hn.miniature.renderer import render
from hn.miniature.scenes import random_scenes


def test_images_stay_images_and_the_seed_decides() -> None:
    images = render(random_scenes(64, torch.Generator().manual_seed(0)))
    first, second = (degrade(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == images.shape and first.min() >= 0 and first.max() <= 1
    assert not torch.equal(first, degrade(images, torch.Generator().manual_seed(2)))
    assert 0.005 < (first - images).abs().mean() < 0.06


def test_strengths_are_bounded() -> None:
    grey = torch.full((256, 3, 16, 16), 0.5)  # contrast about the middle and blur change nothing
    noise = (degrade(grey, torch.Generator().manual_seed(0), noise=0.06) - grey).flatten(1).std(1)
    assert noise.max() < 0.065
    assert 0.3 < (noise == 0).float().mean() < 0.5  # two of five are spared
    assert torch.equal(degrade(grey, torch.Generator().manual_seed(0), noise=0), grey)
