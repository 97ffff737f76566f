from io import BytesIO

import pytest
import torch
from PIL import Image

from hn.rewards import JpegSizeReward


def test_is_the_size_of_the_file() -> None:
    images = torch.rand(2, 3, 24, 40)
    expected = []
    for image in images:
        file = BytesIO()
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95)
        expected.append(len(file.getvalue()))
    assert JpegSizeReward()(images, ["", ""]).tolist() == pytest.approx([size / 1000 for size in expected])
    bits = JpegSizeReward("bits_per_pixel")(images, ["", ""])
    assert bits.tolist() == pytest.approx([size * 8 / (24 * 40) for size in expected])
    assert bits.dtype == torch.float32


def test_noise_is_larger_than_a_plain_image_and_quality_costs() -> None:
    images = torch.stack([torch.full((3, 64, 64), 0.5), torch.rand(3, 64, 64)])
    low, high = (JpegSizeReward(quality=quality)(images, ["", ""]) for quality in (30, 95))
    assert 5 * high[0] < high[1] and low[1] < high[1]


def test_values_outside_the_range_are_clamped_and_gradients_end() -> None:
    images = (torch.rand(1, 3, 16, 16) * 3 - 1).requires_grad_(True)
    score = JpegSizeReward()(images, [""])
    assert torch.equal(score, JpegSizeReward()(images.clamp(0, 1), [""]))
    assert not score.requires_grad and not JpegSizeReward.differentiable


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown unit 'bytes'"):
        JpegSizeReward("bytes")
    with pytest.raises(ValueError, match="must be 1 to 95, not 0"):
        JpegSizeReward(quality=0)
