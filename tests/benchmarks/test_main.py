"""`python -m benchmarks`."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES, main, table

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_benchmark_adds_its_numbers_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "results.json"
    output.write_text(json.dumps({"scaling": {"batch_1": {"seconds": 1.0}}}))
    monkeypatch.setattr(
        sys, "argv", ["benchmarks", "searches", "--rounds", "2", "--output", str(output), "--device", "cpu"]
    )
    main()
    results = json.loads(output.read_text())
    assert results.keys() == {"scaling", "environment", "searches"}
    assert results["searches"]["batched"]["ratio"] > 0
    shown = capsys.readouterr().out
    assert "one_by_one" in shown
    assert str(output) in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["inferense"], "unknown ['inferense']"), (["--rounds", "1"], "--rounds must be at least 2")],
)
def test_bad_arguments_are_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_the_full_size_benchmark_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "full_size", "--device", "cpu"])
    with pytest.raises(SystemExit):
        main()


def test_every_benchmark_is_named_and_numbers_are_readable() -> None:
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert set(NAMES) <= modules
    for name in NAMES:
        assert callable(importlib.import_module(f"benchmarks.{name}").measure)
    assert "1.235" in table("x", {"way": {"seconds": 1.23456, "interval": [1, 2.5]}, "batch": 8})
