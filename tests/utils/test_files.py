import json

import numpy as np
import pytest
import torch
from PIL import Image

from hn.utils.files import require_unused, unused_directory, write_json
from hn.utils.images import save_png


def test_a_png_says_how_it_was_made(tmp_path):
    image = torch.rand(3, 4, 6, dtype=torch.float64)
    text = {"prompt": "ein Kreis, ein ★", "seed": 3, "revision": None, "versions": {"hn": "1"}}
    save_png(image, tmp_path / "a.png", text)
    found = Image.open(tmp_path / "a.png")
    assert found.text == {"prompt": "ein Kreis, ein ★", "seed": "3", "versions": '{"hn": "1"}'}
    expected = (image * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(found), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_image_that_overflowed_is_not_written(tmp_path):
    image = torch.zeros(3, 4, 4, dtype=torch.float16)
    image[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="a.png is not finite: float16 overflows .* choose another dtype"):
        save_png(image, tmp_path / "a.png", {})
    assert not list(tmp_path.iterdir())


def test_json_is_readable_text(tmp_path):
    write_json(tmp_path / "a.json", {"prompt": "★"})
    assert "★" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"prompt": "★"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_directory_that_holds_something_is_left_alone(tmp_path):
    first = unused_directory(tmp_path / "runs" / "x")
    assert first == tmp_path / "runs" / "x" and first.is_dir()
    assert unused_directory(first) == first  # empty
    (first / "a").touch()
    second = unused_directory(first)
    assert second == tmp_path / "runs" / "x_2"
    (second / "a").touch()
    (tmp_path / "runs" / "x_3").touch()
    assert unused_directory(first) == tmp_path / "runs" / "x_4"
    require_unused(tmp_path / "new")
    require_unused(tmp_path / "runs" / "x_4")
    for taken in ("x", "x_3"):
        with pytest.raises(ValueError, match=f"{taken} is there already and is not written over"):
            require_unused(tmp_path / "runs" / taken)
