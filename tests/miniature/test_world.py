import itertools
from collections import Counter

from hn.evaluation import geneval
from hn.evaluation.benchmarks.geneval_results import TAGS as GENEVAL_TAGS
from hn.miniature.world import (
    COLOR_NAMES,
    NUMBERS,
    RELATIONS,
    SHAPES,
    TAGS,
    split_of_color,
    split_of_number,
    split_of_pair,
)


def test_names_are_those_of_geneval() -> None:
    assert COLOR_NAMES == geneval.COLORS
    assert RELATIONS == geneval.RELATIONS
    assert TAGS == GENEVAL_TAGS


def test_coloured_shapes_are_split_evenly() -> None:
    splits = {(color, shape): split_of_color(color, shape) for color in COLOR_NAMES for shape in SHAPES}
    assert Counter(splits.values()) == {"train": 56, "val": 8, "test": 16}
    for shape in SHAPES:
        assert Counter(splits[color, shape] for color in COLOR_NAMES) == {"train": 7, "val": 1, "test": 2}
    for color in COLOR_NAMES:  # every colour is trained on several shapes
        assert sum(splits[color, shape] == "train" for shape in SHAPES) >= 5


def test_pairs_are_unordered_and_every_shape_is_trained_in_some() -> None:
    splits = {pair: split_of_pair(*pair) for pair in itertools.combinations(SHAPES, 2)}
    assert Counter(splits.values()) == {"train": 18, "val": 3, "test": 7}
    assert all(split_of_pair(second, first) == split for (first, second), split in splits.items())
    for shape in SHAPES:
        assert any(split == "train" for pair, split in splits.items() if shape in pair)


def test_every_shape_is_trained_in_one_number_and_every_number_on_two_shapes() -> None:
    splits = {(number, shape): split_of_number(number, shape) for number in NUMBERS for shape in SHAPES}
    assert Counter(splits.values()) == {"train": 12, "val": 4, "test": 8}
    assert {shape for (_, shape), split in splits.items() if split == "train"} == set(SHAPES)
    assert min(Counter(number for (number, _), split in splits.items() if split == "train").values()) >= 2
