"""The table of docs/hypernets.md is what `python -m benchmarks compact_sizes` counts."""

from pathlib import Path

import pytest

from benchmarks.compact_sizes import sizes_of
from benchmarks.full_size_shapes import SHAPES

PAGE = Path(__file__).parents[2] / "docs" / "hypernets.md"
CASES = [name if name == "sd_turbo" else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]


@pytest.mark.parametrize("name", CASES)
def test_the_table_is_up_to_date(name: str) -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for network, sizes in sizes_of(name).items():
        numbers = f"{sizes['parameters']:,} | {sizes['megabytes']:,.1f} | {sizes['gflop']:,.2f} |"
        assert any(line.startswith(f"| `{name}`") and f"| `{network}` | {numbers}" in line for line in lines), numbers
