"""Types of the values in a JSON file, checked with errors that name the file and the value."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    dict: "an object",
    NoneType: "null",
}


def require_types(
    content: Mapping[str, Any], types: Mapping[str, Any], where: Path | str, required: Collection[str], advice: str
) -> None:
    """Refuse a value that is missing or of another type.

    Args:
        content: an object of JSON.
        types: a type hint for each name. "generator.name" is the value "name" of the object "generator", which has to
            come before it.
        where: the file, for errors.
        required: the names that must be there.
        advice: what to do about a wrong value, a sentence.

    Raises:
        ValueError: names the value and what it has to be.
    """
    for key, expected in types.items():
        section, _, name = key.rpartition(".")
        within = content.get(section, {}) if section else content
        if name in within:
            if not is_of_type(within[name], expected):
                shown = repr(within[name])
                shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
                raise ValueError(f"{where}: {key!r} has to be {described(expected)}, but is {shown}. {advice}")
        elif key in required:
            raise ValueError(f"{where} has no {key!r}, which has to be {described(expected)}. {advice}")


def is_of_type(value: Any, expected: Any) -> bool:
    """Whether a value of JSON fits a type hint; hints that are not of JSON's own types are fitted by everything.

    Whole numbers fit `float`, true and false fit `bool` alone, and NaN and infinity fit nothing.
    """
    kind, inner = get_origin(expected), get_args(expected)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if kind in (Union, UnionType):
        return any(is_of_type(value, each) for each in inner)
    if kind in (list, Sequence):
        return isinstance(value, list) and all(is_of_type(each, inner[0]) for each in value)
    if kind is dict:
        return isinstance(value, dict) and all(is_of_type(each, inner[1]) for each in value.values())
    if expected not in _NAMES:
        return True
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, int | float if expected is float else expected)


def described(expected: Any) -> str:
    """A type hint in words, like "a whole number or null"."""
    kind, inner = get_origin(expected), get_args(expected)
    if kind in (Union, UnionType):
        return " or ".join(described(each) for each in inner)
    if kind in (list, Sequence):
        return f"a list ({described(inner[0])} each)"
    if kind is dict:
        return f"an object ({described(inner[1])} each)"
    return _NAMES.get(expected, str(expected))
