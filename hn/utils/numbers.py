"""Types of numbers for options, so that a value which means nothing is refused when it is parsed.

For a type checker they are `int` and `float`, and so are the values. Without a configuration nothing is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from jsonargparse.typing import register_type

if TYPE_CHECKING:
    PositiveInt: TypeAlias = int
    NonNegativeInt: TypeAlias = int
    FiniteFloat: TypeAlias = float
    PositiveFloat: TypeAlias = float
    NonNegativeFloat: TypeAlias = float
else:

    def _register(name: str, base: type, holds: Callable[[Any], bool], what: str) -> type:
        """A type whose values are plain numbers of `base` for which `holds` is true."""

        def is_one(value: Any, kind: type) -> bool:
            return type(value) is base and holds(value)

        def parse(value: Any) -> int | float:
            try:
                number = base(value) if isinstance(value, str) or (base is float and type(value) is int) else value
            except (ValueError, OverflowError):
                number = None
            if not is_one(number, base):
                raise ValueError(f"must be {what}, not {str(value)[:80]}")
            return number

        kind = type(name, (base,), {"__doc__": f"{what[0].upper()}{what[1:]}."})
        register_type(kind, serializer=base, deserializer=parse, type_check=is_one)
        return kind

    PositiveInt = _register("PositiveInt", int, lambda value: value > 0, "at least 1 and a whole number")
    NonNegativeInt = _register("NonNegativeInt", int, lambda value: value >= 0, "a whole number and not negative")
    FiniteFloat = _register("FiniteFloat", float, math.isfinite, "a finite number")
    PositiveFloat = _register("PositiveFloat", float, lambda value: 0 < value < math.inf, "a finite number above 0")
    NonNegativeFloat = _register(
        "NonNegativeFloat", float, lambda value: 0 <= value < math.inf, "a finite number and not negative"
    )
