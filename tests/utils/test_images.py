import numpy as np
import pytest
import torch
from PIL import Image

from hn.utils.errors import InputError
from hn.utils.images import labelled_grid, save_png, to_pil


def test_every_image_is_there_in_its_place_pixel_for_pixel():
    rows = {"base": torch.rand(3, 3, 4, 4), "a much longer name": torch.rand(3, 3, 4, 4)}
    picture = np.array(labelled_grid(rows, ["one", "two", "three"], upscale=2))
    row_starts, column_starts = set(), set()
    for images in rows.values():
        for image in images:
            block = np.array(to_pil(image)).repeat(2, axis=0).repeat(2, axis=1)
            windows = np.lib.stride_tricks.sliding_window_view(picture, (8, 8, 3))[:, :, 0]
            found = np.argwhere((windows == block).all(axis=(2, 3, 4)))
            assert len(found) == 1
            row_starts.add(int(found[0][0]))
            column_starts.add(int(found[0][1]))
    assert (len(row_starts), len(column_starts)) == (2, 3)
    assert min(column_starts) > 100  # room for the longest name
    labels = picture[:, : min(column_starts)]
    assert (labels != 255).any()


def test_captions_are_wrapped_to_the_images():
    images = {"base": torch.ones(1, 3, 64, 64)}
    short, long = (labelled_grid(images, [caption]) for caption in ("ball", "a photo of a red ball left of a cube"))
    assert short.width == long.width
    assert long.height > short.height + 30


def test_pixels_are_clamped_and_rounded():
    image = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 2.0]).view(1, 1, 6).expand(3, 1, 6)
    assert np.array(to_pil(image))[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


def test_rows_and_columns_must_fit():
    with pytest.raises(ValueError, match="row 'base' has 2 images for 3 columns"):
        labelled_grid({"base": torch.rand(2, 3, 4, 4)}, ["a", "b", "c"])
    with pytest.raises(ValueError, match="a grid needs rows and columns, not 0 by 1"):
        labelled_grid({}, ["a"])


def test_a_png_says_how_it_was_made(tmp_path):
    image = torch.rand(3, 4, 6, dtype=torch.float64)
    text = {"prompt": "ein Kreis, ein ★", "seed": 3, "revision": None, "versions": {"hn": "1"}}
    save_png(image, tmp_path / "a.png", text)
    found = Image.open(tmp_path / "a.png")
    assert found.text == {"prompt": "ein Kreis, ein ★", "seed": "3", "versions": '{"hn": "1"}'}
    expected = (image * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(found), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_never_written(tmp_path, dtype, value):
    image = torch.zeros(3, 4, 4, dtype=dtype)
    image[0, 0, 0] = value
    with pytest.raises(InputError, match="a.png is not finite and not written.*float16 may overflow"):
        save_png(image, tmp_path / "a.png", {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="not finite"):
        to_pil(image)


def test_a_grid_says_where_an_image_is_not_finite():
    images = torch.rand(2, 3, 24, 32)
    images[1, 0, 0, 0] = float("nan")
    picture = np.array(labelled_grid({"base": images}, ["one", "two"], upscale=2)).astype(int)
    red = (picture == (255, 0, 0)).all(axis=2)
    assert red.any() and not (picture[red.any(axis=1)][:, red.any(axis=0)] == 0).all(axis=2).any()
