from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision_functional
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hn.rewards.preprocess import ClipPreprocess, SharedPixels, resize_and_crop


@pytest.mark.parametrize("name", ["sq32", "wide96x160"])
def test_is_the_published_preprocessing(fixtures: Path, name: str) -> None:
    stored = load_file(fixtures / "rewards" / "preprocess.safetensors")
    out = ClipPreprocess(224, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)(stored[f"in_{name}"])
    assert out.shape == (1, 3, 224, 224)
    torch.testing.assert_close(out[..., ::4, ::4], stored[f"out_{name}_every4th"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (300, 451), (17, 16), (16, 16)])
def test_resize_and_crop_are_those_of_the_published_code(shape: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *shape)
    resized = torchvision_functional.resize(images, 16, InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(resize_and_crop(images, 16), torchvision_functional.center_crop(resized, [16, 16]))


def test_images_of_the_right_size_are_only_normalised() -> None:
    images = torch.rand(1, 3, 8, 8)
    out = ClipPreprocess(8, (0.5, 0.4, 0.3), (0.25, 0.5, 1.0))(images)
    for channel, (mean, std) in enumerate([(0.5, 0.25), (0.4, 0.5), (0.3, 1.0)]):
        torch.testing.assert_close(out[:, channel], (images[:, channel] - mean) / std)


def test_gradient_equals_finite_differences() -> None:
    preprocess = ClipPreprocess(6, (0.5, 0.4, 0.3), (0.25, 0.5, 1.0))
    images = torch.rand(1, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(preprocess, images)


def test_leaves_nothing_in_the_state_dict() -> None:
    assert not ClipPreprocess(8, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD).state_dict()


def test_shared_pixels_are_those_of_each_preprocessing_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def count(images: torch.Tensor, size: int) -> torch.Tensor:
        sizes.append(size)
        return resize_and_crop(images, size)

    monkeypatch.setattr("hn.rewards.preprocess.resize_and_crop", count)
    openai, plain = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), ((0.5,) * 3, (0.5,) * 3)
    several = [ClipPreprocess(*p) for p in ((8, *openai), (8, *openai), (8, *plain), (6, *openai), (8, *plain))]
    images = torch.rand(2, 3, 20, 16)
    shared = SharedPixels(images)
    pixels = [shared(preprocess) for preprocess in several]
    assert sizes == [8, 6]
    assert pixels[0] is pixels[1] and pixels[2] is pixels[4] and pixels[0] is not pixels[2]
    for preprocess, made in zip(several, pixels, strict=True):
        assert torch.equal(made, preprocess(images))
