"""Which images of a comparison are kept, and where."""

import logging

import torch
from PIL import Image

from hn.evaluation.comparison.gallery import Gallery, choose_prompts
from hn.evaluation.samples import Samples


def test_categories_have_equal_shares_as_far_as_they_can():
    categories = dict(enumerate("aaaaaabbcccc"))
    chosen = choose_prompts(categories, 8)
    assert [sum(categories[k] == name for k in chosen) for name in "abc"] == [3, 2, 3]
    assert choose_prompts(categories, 100) == set(range(12))
    assert choose_prompts(categories, 0) == set()
    assert len(choose_prompts(categories, 1)) == 1


def test_prompts_of_a_category_are_evenly_spaced():
    assert choose_prompts(dict.fromkeys(range(12), "all"), 3) == {2, 6, 10}


def test_the_first_image_of_chosen_prompts_is_kept(tmp_path):
    gallery = Gallery(tmp_path / "gallery", {4, 7})
    samples = Samples(["p", "p", "q", "q", "r"], [{}] * 5, [4, 4, 5, 5, 7], [0, 1, 0, 1, 0], 3, torch.zeros(5, 1))
    images = torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    gallery.keep("base", samples, images)
    assert sorted(path.name for path in (tmp_path / "gallery" / "base").iterdir()) == ["00004.png", "00007.png"]
    with Image.open(tmp_path / "gallery" / "base" / "00007.png") as kept:
        assert kept.getpixel((0, 0)) == (255, 255, 255)
        assert kept.text == {"prompt": "r", "method": "base", "index": "7", "seed": "3"}


def test_an_image_that_is_not_finite_stops_nothing(tmp_path, caplog):
    samples = Samples(["p", "q"], [{}] * 2, [0, 1], [0, 0], 0, torch.zeros(2, 1))
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0, 0, 0] = float("nan")
    with caplog.at_level(logging.WARNING):
        Gallery(tmp_path, {0, 1}).keep("finetune", samples, images)
    assert [path.name for path in (tmp_path / "finetune").iterdir()] == ["00001.png"]
    assert "of finetune for 'p' is not finite" in caplog.text
