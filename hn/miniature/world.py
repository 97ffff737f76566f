"""What exists in the miniature world: shapes, colours, numbers, relations, and which combinations are held out.

Every combination (colour and shape, two shapes, number and shape) belongs to exactly one split. The generator, its text
encoder, the rewards and every hypernetwork are trained on captions of the `train` split alone, so the `val` and `test`
prompts ask for combinations that none of them has seen. One exception: the rewards know every number of every shape.
"""

from __future__ import annotations

import itertools
from typing import Literal

Split = Literal["train", "val", "test"]

IMAGE_SIZE = 32
MAX_OBJECTS = 4
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
PLURALS: dict[str, str] = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.12),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.98, 0.88, 0.10),
    "green": (0.10, 0.62, 0.18),
    "blue": (0.10, 0.25, 0.85),
    "purple": (0.50, 0.12, 0.70),
    "pink": (0.99, 0.52, 0.76),
    "brown": (0.46, 0.27, 0.12),
    "black": (0.05, 0.05, 0.06),
    "white": (0.99, 0.99, 0.99),
}
COLOR_NAMES: tuple[str, ...] = tuple(COLORS)
NUMBERS: dict[int, str] = {2: "two", 3: "three", 4: "four"}
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left of": (-1.0, 0.0),
    "right of": (1.0, 0.0),
    "above": (0.0, -1.0),
    "below": (0.0, 1.0),
}
"""Unit vectors of the relations in image coordinates, y down."""
RELATIONS: tuple[str, ...] = tuple(DIRECTIONS)
OPPOSITE: dict[str, str] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
TAGS: tuple[str, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def split_of_color(color: str, shape: str) -> Split:
    """Split of a coloured shape: of the 80 pairs 56 train, 8 val and 16 test; each shape trains seven colours."""
    return _latin(COLOR_NAMES.index(color) + 3 * SHAPES.index(shape), 10, val={0}, test={4, 7})


def split_of_pair(first: str, second: str) -> Split:
    """Split of an unordered pair of different shapes: of the 28 pairs 18 train, 3 val and 7 test."""
    low, high = sorted((SHAPES.index(first), SHAPES.index(second)))
    return _latin(_PAIRS.index((low, high)) * 11, 28, val={5, 13, 21}, test={0, 4, 8, 12, 16, 20, 24})


def split_of_number(number: int, shape: str) -> Split:
    """Split of a counted shape: of the 24 combinations 12 train, 4 val and 8 test; a shape trains one or two."""
    index = SHAPES.index(shape)
    return ("test", "val" if index % 2 else "train", "train")[(index + number) % 3]


def _latin(index: int, modulus: int, val: set[int], test: set[int]) -> Split:
    rest = index % modulus
    return "val" if rest in val else "test" if rest in test else "train"


_PAIRS = tuple(itertools.combinations(range(len(SHAPES)), 2))
