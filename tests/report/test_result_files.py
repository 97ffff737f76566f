"""Tables of a comparison beside its JSON."""

import csv
import json

import pytest

from hn.report.result_files import read_images_csv, write_images_csv, write_methods_csv


def test_a_row_for_each_method_has_every_number(comparison_folder):
    methods = json.loads((comparison_folder / "results.json").read_text())["methods"]
    with (comparison_folder / "results.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(methods)
    ours, row = methods["hypernetwork"], rows["hypernetwork"]
    assert float(row["reward"]) == ours["reward"]
    assert float(row["rewards.redness"]) == ours["rewards"]["redness"]
    assert float(row["geneval.counting"]) == ours["geneval"]["counting"]
    assert [float(row[f"geneval_delta_ci95_{end}"]) for end in ("low", "high")] == ours["geneval_delta_ci95"]
    assert float(row["categories.colors.reward_ci95_low"]) == ours["categories"]["colors"]["reward_ci95"][0]
    assert row["peak_memory_bytes"] == "" == rows["base"]["reward_delta_ci95_low"]


def test_what_is_missing_keeps_its_columns(tmp_path):
    path = tmp_path / "methods.csv"
    write_methods_csv(path, {"base": {"reward": 1.0}, "x": {"reward": None, "reward_delta_ci95": None}})
    assert path.read_text().splitlines() == [
        "method,reward,reward_delta_ci95_low,reward_delta_ci95_high",
        "base,1.0,,",
        "x,,,",
    ]


def test_images_are_read_as_they_were_written(tmp_path):
    own = {"method": "@base", "index": 3, "copy": 1, "category": "-", "prompt": '=a "b", c\nd', "+mine": -1.5}
    rows = [{**own, "reward": 0.5, "correct": True}, {**own, "reward": float("nan"), "correct": None}]
    write_images_csv(tmp_path / "images.csv", rows)
    assert read_images_csv(tmp_path / "images.csv") == [rows[0], {**rows[1], "reward": None}]


def test_images_of_earlier_versions_have_tags(tmp_path):
    (tmp_path / "images.csv").write_text("method,index,copy,tag,prompt,reward\nbase,0,1,counting,a,0.5\n")
    own = {"method": "base", "index": 0, "copy": 1, "category": "counting", "prompt": "a"}
    assert read_images_csv(tmp_path / "images.csv") == [{**own, "reward": 0.5}]


@pytest.mark.parametrize("text", ["method,index\nbase,0\n", "method,index,copy,tag,prompt,reward\nbase,0,0,a,b,high\n"])
def test_another_table_is_refused(tmp_path, text):
    path = tmp_path / "images.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="images.csv is no table of a comparison's images"):
        read_images_csv(path)
