import random

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from hn.utils.numbers import FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

TAKES = {
    PositiveInt: lambda value: isinstance(value, int) and value > 0,
    NonNegativeInt: lambda value: isinstance(value, int) and value >= 0,
    FiniteFloat: lambda value: abs(value) < float("inf"),
    PositiveFloat: lambda value: 0 < value < float("inf"),
    NonNegativeFloat: lambda value: 0 <= value < float("inf"),
}


def parse(kind, value):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=kind)
    return parser.parse_object({"x": value}).x if not isinstance(value, str) else parser.parse_args([f"--x={value}"]).x


@pytest.mark.parametrize("kind", TAKES)
def test_only_what_a_type_means_is_taken_and_stays_a_plain_number(kind):
    rng = random.Random(0)
    special = [0, 1, -1, 0.0, -0.5, 1e300, float("nan"), float("inf"), -float("inf")]
    for value in [*special, *(rng.randint(-9, 9) for _ in range(9)), *(rng.uniform(-9, 9) for _ in range(9))]:
        try:
            found = parse(kind, value)
        except ArgumentError:
            assert not TAKES[kind](value), value
        else:
            assert TAKES[kind](value) and found == value
            assert type(found) is (int if kind in (PositiveInt, NonNegativeInt) else float)


@pytest.mark.parametrize("kind", TAKES)
@pytest.mark.parametrize("value", ["", "many", ".nan", "nan", "inf", "-.inf", "[1]", "true", "null"])
def test_what_is_no_finite_number_is_refused(kind, value):
    with pytest.raises(ArgumentError, match="must be"):
        parse(kind, value)


def test_numbers_are_read_as_people_write_them():
    assert parse(PositiveFloat, "1e-4") == 1e-4
    assert parse(FiniteFloat, "-3") == -3.0
    assert parse(PositiveInt, "12") == 12
