"""A comparison on a set that keeps its categories where GenEval does not, through the command line."""

import json
from collections import defaultdict

import pytest

from hn.cli import main
from hn.report.result_files import read_images_csv

ROWS = [
    {"prompt": "a red ball", "category": "Colors", "challenge": "basic"},
    {"prompt": "two cube", "category": "Counting", "challenge": "quantity"},
    {"prompt": "the blue cube", "category": "Colors", "challenge": "basic"},
    {"prompt": "a green ball", "category": "Colors", "challenge": "basic"},
    {"prompt": "two ball", "category": "Counting", "challenge": "basic"},
]


@pytest.fixture
def comparison(experiment, make_module, tmp_path):
    """`hn compare` of base and hypernetwork, as arguments."""
    make_module().hypernet.save_pretrained(tmp_path / "runs" / "tiny" / "one" / "hypernet")
    (tmp_path / "drawn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = {"data.init_args.test": tmp_path / "drawn.jsonl", "run.name": "x", "comparison.gallery": 4}
    options |= {f"comparison.searches.{name}": "null" for name in (
        "best_of_8", "best_of_50", "zero_order_17", "reno_50", "hypernetwork_reno_5",
    )}  # fmt: skip
    return ["compare", "--config", str(experiment), *(f"--{name}={value}" for name, value in options.items())]


def checked(folder, field):
    """The results, of which the categories are the images' own means by that field."""
    results = json.loads((folder / "results.json").read_text())
    assert results["grouped_by"] == [field]
    by_prompt = {row["prompt"]: row[field] for row in ROWS}
    found = defaultdict(list)
    for row in read_images_csv(folder / "images.csv"):
        assert row["category"] == by_prompt[row["prompt"]]
        found[row["method"], row["category"]].append(row["reward"])
    assert {key: len(values) for key, values in found.items()} == {
        (method, name): 2 * [*by_prompt.values()].count(name)
        for method in ("base", "hypernetwork")
        for name in by_prompt.values()
    }
    for (method, name), rewards in found.items():
        entry = results["methods"][method]["categories"][name]
        assert entry["reward"] == pytest.approx(sum(rewards) / len(rewards), rel=1e-5)
        assert entry["images"] == 2 * entry["prompts"] == len(rewards) and entry["geneval"] is None
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"By {field} of the prompts." in page
    for name in set(by_prompt.values()):
        assert f'data-category="{name}"' in page and f'data-value="{name}"' in page
    assert f"categories.{ROWS[0][field]}.reward" in (folder / "results.csv").read_text()
    assert {path.name for path in (folder / "figures").iterdir()} >= {"categories.png", "categories.pdf"}
    return results


@pytest.mark.slow
def test_a_set_is_grouped_by_its_own_field_and_by_another_without_measuring(comparison, tmp_path, refuse):
    main(comparison)
    folder = tmp_path / "runs" / "tiny" / "compare_x"
    results = checked(folder, "category")
    assert results["methods"]["base"]["geneval"] is None
    gallery = {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.glob("gallery/*/*.png")}
    assert len(gallery) == 8
    records = {path.name: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}
    main([*comparison, "--comparison.category=challenge"])
    again = checked(folder, "challenge")
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "records").iterdir()} == records
    assert {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.glob("gallery/*/*.png")} == gallery
    assert again["methods"]["base"]["reward"] == results["methods"]["base"]["reward"]
    message = refuse(*comparison, "--comparison.category=Category")
    assert "no prompt has a 'Category' to make categories of; there are category, challenge, and 'file'" in message
