import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hn.evaluation.benchmarks.geneval_results import FIELDS, read_results, result_row, summarize, write_results
from hn.evaluation.geneval import Detection, Verdict

FIXTURES = Path(__file__).parents[2] / "fixtures" / "geneval"
METADATA = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}


def row(tag: str, prompt: str, correct: bool) -> dict:
    return {"tag": tag, "metadata": prompt, "correct": correct}


def test_summary_equals_the_official_one():
    summary = asdict(summarize(read_results(FIXTURES / "summary_uneven.jsonl")))
    expected = json.loads((FIXTURES / "summary_uneven.expected.json").read_text())
    assert [task["tag"] for task in summary["tasks"]] == [task["tag"] for task in expected["tasks"]]
    for actual_task, expected_task in zip(summary.pop("tasks"), expected.pop("tasks"), strict=True):
        assert actual_task == pytest.approx(expected_task, abs=1e-12)
    assert summary == pytest.approx(expected, abs=1e-12)


def test_overall_weighs_tags_equally():
    rows = [
        row("colors", "a", True),
        row("position", "b", False),
        row("position", "b", False),
        row("position", "c", True),
    ]
    summary = summarize(rows)
    assert summary.overall == pytest.approx((1 + 1 / 3) / 2)
    assert summary.frac_correct_images == 0.5
    assert summary.frac_correct_prompts == pytest.approx(2 / 3)


def test_rows_survive_the_disk(tmp_path):
    dog = Detection((1.0, 2.0, 3.0, 4.0), 0.5)
    written = result_row("00000/samples/0000.png", METADATA, Verdict(False, "expected é", {"dog": [dog]}))
    path = tmp_path / "new" / "results.jsonl"
    write_results(path, [written, written])
    (first, second) = read_results(path)
    assert first == second == written
    assert tuple(first) == FIELDS
    assert json.loads(first["metadata"]) == METADATA
    assert json.loads(first["details"]) == {"dog": [[1.0, 2.0, 3.0, 4.0, 0.5]]}


def test_errors_name_the_line(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('\n{"filename": 1}\n')
    with pytest.raises(ValueError, match=r"line 2.*tag, prompt"):
        read_results(path)
    path.write_text("{\n")
    with pytest.raises(ValueError, match="line 1: not JSON"):
        read_results(path)
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no GenEval results"):
        summarize([])
