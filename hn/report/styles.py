"""Colours, marks and labels of methods, the same in all plots; the colours suit readers with colour blindness."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

COLORS = ("#5f6670", "#0072b2", "#d55e00", "#00875f", "#b4508c", "#b87f00", "#3a9fd6", "#7a5c3e")
"""By slot, for light backgrounds (after Okabe and Ito); the page has lighter ones of the same hues for dark mode."""
MARKS = ("circle", "square", "triangle", "diamond", "down", "cross")
_SLOTS = {"base": 0, "hypernetwork": 1, "finetune": 2, "best_of": 3, "reno": 4, "zero_order": 5, "hypernetwork_reno": 6}


@dataclass(frozen=True)
class Style:
    """The style of one method.

    Attributes:
        label: name shown to readers.
        slot: index of its colour in `COLORS`.
        mark: one of `MARKS`.
    """

    label: str
    slot: int
    mark: str

    @property
    def color(self) -> str:
        """The colour on light backgrounds."""
        return COLORS[self.slot]


def label_of(method: str) -> str:
    """`base_2_steps` -> "base, 2 steps", `best_of_50` -> "best of 50", `reno_50@10` -> "reno 50, at 10"."""
    return re.sub(r"_(\d+)_(steps?)$", r", \1 \2", method).replace("_", " ").replace("@", ", at ")


def styles_of(methods: Iterable[str]) -> dict[str, Style]:
    """A style for each method: a colour for each family (names that differ in their numbers alone), marks in it.

    The families that `hn` knows have the same colours in every comparison.
    """
    families: dict[str, list[str]] = {}
    for method in methods:
        families.setdefault(re.sub(r"(_\d+_steps?|_\d+|@\d+)+$", "", method), []).append(method)
    taken = {_SLOTS[family] for family in families if family in _SLOTS}
    free = [slot for slot in reversed(range(3, len(COLORS))) if slot not in taken] or list(range(3, len(COLORS)))
    others = [family for family in families if family not in _SLOTS]
    slots = _SLOTS | {family: free[k % len(free)] for k, family in enumerate(others)}
    return {
        method: Style(label_of(method), slots[family], MARKS[k % len(MARKS)])
        for family, members in families.items()
        for k, method in enumerate(members)
    }
