"""Reading single images; folders are tested through the command line in tests/cli/test_score.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from hn.evaluation.folder.images import ImageFile, check_images, load_image, read_image_folder, size_batches


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


ENTRY = {"file": "0.png", "prompt": "a dog", "method": "base"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "../secret/s.png"}, "names the image '../secret/s.png', which is not a path within"),
        ({"file": "a/../../s.png"}, "names the image 'a/../../s.png', which is not a path within"),
        ({"file": ""}, "names the image '', which is not a path within"),
        ({"file": "0.png\0"}, r"names the image '0.png\\x00', which is not a path within"),
        ({"file": 3}, r"images\[1\]: 'file' has to be a string, but is 3"),
        ({"prompt": None}, r"images\[1\]: 'prompt' has to be a string, but is None"),
        ({"prompt": " "}, "the prompt of 0.png is empty"),
        ({"method": {}}, r"images\[1\]: 'method' has to be a string or null, but is \{\}"),
        ({"method": ["a"]}, r"images\[1\]: 'method' has to be a string or null"),
    ],
)
def test_each_wrong_entry_of_metadata_is_named(tmp_path: Path, entry: dict, message: str) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
    (tmp_path / "metadata.json").write_text(json.dumps({"images": [ENTRY, {**ENTRY, **entry}]}))
    with pytest.raises(ValueError, match=f"metadata.json.*{message}"):
        read_image_folder(tmp_path)


def test_metadata_do_not_name_images_by_absolute_paths(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
    for file in (tmp_path / "0.png", Path("/etc/passwd")):
        (tmp_path / "metadata.json").write_text(json.dumps({"images": [{**ENTRY, "file": str(file)}]}))
        with pytest.raises(ValueError, match=f"names the image '{file}', which is not a path within"):
            read_image_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 3}', '{"images": [3]}', '{"images": {}}'])
def test_damaged_metadata_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"metadata.json.* Without the file, the folder's images are read"):
        read_image_folder(tmp_path)


def test_metadata_name_images_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "deep" / "1.png")
    (tmp_path / "metadata.json").write_text(json.dumps({"images": [{"file": "deep/1.png", "prompt": "a dog"}]}))
    assert read_image_folder(tmp_path) == [ImageFile(tmp_path / "deep" / "1.png", "a dog")]
