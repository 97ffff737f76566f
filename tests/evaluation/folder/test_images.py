"""Reading single images; folders are tested through the command line in tests/cli/test_score.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from hn.evaluation.folder.images import ImageFile, check_images, load_image, size_batches


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
def test_pixels_are_those_of_pil_in_rgb(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(path)
    found = load_image(path)
    assert (found.dtype, found.shape) == (torch.float32, (3, 9, 7))
    assert torch.equal(found, to_tensor(Image.open(path).convert("RGB")))


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "x.jpg", exif=exif)
    assert load_image(tmp_path / "x.jpg").shape == (3, 8, 4)


def test_many_broken_files_make_a_short_message(tmp_path: Path) -> None:
    files = [ImageFile(tmp_path / f"{number}.png") for number in range(20)]
    Image.new("RGB", (3, 2)).save(files[0].path)
    assert check_images(files[:1]) == [(2, 3)]
    with pytest.raises(ValueError, match=r"(?s)1\.png cannot be read: .*and 11 more\nReplace or remove them") as caught:
        check_images(files)
    assert len(str(caught.value).splitlines()) == 10


def test_batches_have_one_size_each() -> None:
    sizes = [(1, 1), (2, 1), (1, 1), (1, 1), (2, 1)]
    assert size_batches(sizes, 2) == [[0, 2], [3], [1, 4]]
    assert size_batches(sizes, 8) == [[0, 2, 3], [1, 4]]
