import itertools
import json
from pathlib import Path

import pytest

from hn.miniature.captions import captions_of
from hn.miniature.prompts import LARGE, PER_TAG, write_prompt_files
from hn.miniature.world import TAGS

FILES = ("test", "train", "train_large", "val")
FOLDER = Path(__file__).parents[2] / "data" / "prompts" / "miniature"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict]]:
    """The rows of the committed files, by name."""
    return {name: [json.loads(line) for line in (FOLDER / f"{name}.jsonl").open()] for name in FILES}


def combinations(rows: list[dict]) -> set[tuple]:
    """What the prompts combine: (colour, shape), pairs of shapes, (number, shape)."""
    found: set[tuple] = set()
    for row in rows:
        found |= {(clause["color"], clause["class"]) for clause in row["include"] if "color" in clause}
        found |= {(clause["count"], clause["class"]) for clause in row["include"] if row["tag"] == "counting"}
        classes = sorted(clause["class"] for clause in row["include"])
        found |= set(itertools.combinations(classes, 2))
    return found


def test_committed_files_are_what_the_code_writes(tmp_path: Path) -> None:
    write_prompt_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.jsonl" for n in FILES]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("first", "second"), [*itertools.combinations(PER_TAG, 2), ("train_large", "val"), ("train_large", "test")]
)
def test_splits_share_no_combination(rows: dict[str, list[dict]], first: str, second: str) -> None:
    one, other = combinations(rows[first]), combinations(rows[second])
    assert len(one) >= 15 and len(other) >= 15
    assert not one & other


def test_training_shares_no_text_with_evaluation(rows: dict[str, list[dict]]) -> None:
    texts = {split: {row["prompt"] for row in of_split} for split, of_split in rows.items()}
    assert not (texts["train"] | texts["train_large"]) & (texts["val"] | texts["test"])
    # Single objects combine nothing and are in every split.
    assert texts["val"] & texts["test"] == {caption.text() for caption in captions_of("single_object")}


def test_every_form_is_there(rows: dict[str, list[dict]]) -> None:
    for split, of_split in rows.items():
        counts = {tag: sum(row["tag"] == tag for row in of_split) for tag in TAGS}
        assert max(counts.values()) == {**PER_TAG, "train_large": LARGE}[split] and min(counts.values()) >= 4, split
    assert all(len({row["prompt"] for row in rows[split]}) == len(rows[split]) for split in ("val", "test"))
