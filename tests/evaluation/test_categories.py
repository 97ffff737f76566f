"""What prompts are grouped by."""

import pytest

from hn.data.prompts import PromptDataset
from hn.evaluation.categories import Categories

ROWS = [
    {"prompt": "a", "tag": "counting", "category": "x"},
    {"prompt": "b", "category": "Colors", "challenge": "basic"},
    {"prompt": "c", "style": "anime", "category": ""},
    {"prompt": "d", "style": None, "challenge": 0},
    {"prompt": "e"},
]


def test_each_prompt_has_the_first_field_that_its_row_has():
    found = Categories.found(ROWS, None)
    assert found.names == ["counting", "Colors", "anime", "0", "none"]
    assert found.fields == ["tag", "category", "style", "challenge"]


def test_rows_without_a_field_are_grouped_by_their_files_where_there_are_several():
    files = ["geneval", "drawbench", "drawbench", "hpdv2/anime", "hpdv2/photo"]
    found = Categories.found([*ROWS[:2], {"prompt": "c"}, {"prompt": "d"}, {"prompt": "e"}], files)
    assert found.names == ["counting", "Colors", "drawbench", "hpdv2/anime", "hpdv2/photo"]
    assert found.fields == ["tag", "category", "file"]


@pytest.mark.parametrize("files", [None, ["x.txt"] * 2])
def test_prompts_without_categories_are_one(files):
    assert Categories.found([{"prompt": "a"}, {"prompt": "b", "item": "7"}], files) == Categories(["all", "all"], [])


def test_one_field_may_be_named():
    assert Categories.of("challenge", ROWS, None) == Categories(["none", "basic", "none", "0", "none"], ["challenge"])
    assert Categories.of("file", ROWS[:2], ["x", "y"]) == Categories(["x", "y"], ["file"])
    assert Categories.of(None, ROWS, None) == Categories.found(ROWS, None)


def test_a_field_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no prompt has a 'Tag' .*there are category, challenge, style, ...$"):
        Categories.by("Tag", ROWS, None)
    with pytest.raises(ValueError, match="there are no fields, and 'file' for the file that a prompt comes from"):
        Categories.by("style", [{"prompt": "a"}], ["x"])
    with pytest.raises(ValueError, match="no prompt has a 'file'"):
        Categories.by("file", ROWS, None)


def test_a_data_set_knows_the_file_of_each_row(tmp_path):
    for name, text in (("x", "a\nb\n"), ("y", "A.\nc\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    x, y = (str(tmp_path / f"{name}.txt") for name in "xy")
    assert PromptDataset({x: 1, y: 2}).files == [x, x, y, y, y, y]
    kept = PromptDataset([x, y], limit=3, exclude=["b"])
    assert (kept.prompts, kept.files) == (["a", "A.", "c"], [x, y, y])
    assert PromptDataset([x, y], deduplicate=True).files == [x, x, y]
