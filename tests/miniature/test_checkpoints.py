"""The committed checkpoints are what the recipe makes, and good enough."""

import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from hn.miniature.recipe.measure import megabytes
from hn.miniature.recipe.tokenizer import build_tokenizer, fingerprint

FOLDER = Path(__file__).parents[2] / "data" / "miniature"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "report.json").is_file(), reason=f"no finished checkpoints in {FOLDER}: run `make miniature`"
)


@pytest.mark.parametrize("part", ["pipeline/tokenizer", "clip", "clip_held_out"])
def test_vocabulary_is_the_recipes(part: str) -> None:
    assert fingerprint(CLIPTokenizer.from_pretrained(FOLDER / part)) == fingerprint(build_tokenizer())


def test_everything_is_small() -> None:
    assert megabytes(FOLDER) <= 25


def test_the_page_says_what_was_measured() -> None:
    report = json.loads((FOLDER / "report.json").read_text())
    for bar in report["bars"]:
        assert f"| {bar['name']} | {bar['value']:.3f} |" in (FOLDER / "REPORT.md").read_text()


def test_every_bar_of_the_report_holds() -> None:
    report = json.loads((FOLDER / "report.json").read_text())
    assert [bar["name"] for bar in report["bars"] if not bar["holds"]] == []
