import json
from pathlib import Path

import pytest
import torch

from hn.evaluation.methods import MethodOutput
from hn.evaluation.record import MethodRecord
from hn.evaluation.samples import Samples
from hn.evaluation.suite import SuitePrompts

CATEGORIES = ("Colors", "Colors", "Counting", "Colors", "", "Counting")


@pytest.fixture
def rows(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"Prompt {i}.", "category": name} for i, name in enumerate(CATEGORIES)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def styles(tmp_path) -> list[str]:
    files = []
    for name, count in (("anime", 3), ("photo", 2)):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps([f"{name} {i}" for i in range(count)]))
    return [str(file) for file in files]


def test_rows_keep_their_fields_and_categories(rows):
    suite = SuitePrompts.read(str(rows), "category")
    assert suite.categories == ["Colors", "Colors", "Counting", "Colors", "none", "Counting"]
    assert suite.prompts[2] == {
        "prompt": "Prompt 2.", "metadata": {"prompt": "Prompt 2.", "category": "Counting"}, "index": 2,
    }  # fmt: skip
    assert SuitePrompts.read(str(rows)).categories is None


def test_files_are_categories(styles):
    suite = SuitePrompts.read(styles, "file")
    assert suite.categories == [styles[0]] * 3 + [styles[1]] * 2
    assert suite.texts == ["anime 0", "anime 1", "anime 2", "photo 0", "photo 1"]
    twice = SuitePrompts.read({styles[0]: 1, styles[1]: 2}, "file")
    assert twice.categories == [styles[0]] * 3 + [styles[1]] * 4


def test_what_is_trained_on_is_left_out_and_moves_no_noise(rows):
    suite = SuitePrompts.read(str(rows), "category", exclude=["prompt  1", "PROMPT 4", "another"])
    assert (suite.n_excluded, [prompt["index"] for prompt in suite.prompts]) == (2, [0, 2, 3, 5])
    assert suite.categories == ["Colors", "Counting", "Colors", "Counting"]
    with pytest.raises(ValueError, match=r"rows\.jsonl: every prompt is trained on"):
        SuitePrompts.read(str(rows), exclude=[f"prompt {i}" for i in range(6)])


@pytest.mark.parametrize(
    ("limit", "index"), [(1, [0]), (2, [0, 3]), (4, [0, 1, 3, 4]), (6, [*range(6)]), (9, [*range(6)])]
)
def test_a_limit_is_spread_evenly(rows, limit, index):
    assert [prompt["index"] for prompt in SuitePrompts.read(str(rows), limit=limit).prompts] == index


def test_a_field_that_is_not_there_is_named(rows):
    with pytest.raises(ValueError, match="no prompt has a 'Category'.*there are category, and 'file'"):
        SuitePrompts.read(str(rows), "Category")
    with pytest.raises(ValueError, match="limit must be at least 1"):
        SuitePrompts.read(str(rows), limit=0)


def test_batches_hold_every_prompt_once(rows):
    batches = SuitePrompts.read(str(rows)).batches(4)
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]


def test_means_of_each_category(rows):
    suite = SuitePrompts.read(str(rows), "category", exclude=["prompt 4"])
    record = MethodRecord("base", 1)
    for batch in suite.batches(2):
        index = [int(i) for i in batch["index"] for _ in range(2)]
        samples = Samples([""] * len(index), [{}] * len(index), index, [0, 1] * (len(index) // 2), 0, torch.zeros(1))
        output = MethodOutput(torch.zeros(len(index), 3, 1, 1), None, 0.0)
        record.add(samples, output, {"reward": torch.tensor([i + 0.5 * k for k, i in enumerate(index)])})
    values = {int(i): [] for i in record.column("index")}
    for i, value in zip(record.column("index").tolist(), record.column("reward").tolist(), strict=True):
        values[i].append(value)
    found = suite.by_category(record)
    assert list(found) == ["Colors", "Counting"]
    for name, members in (("Colors", (0, 1, 3)), ("Counting", (2, 5))):
        own = [value for i in members for value in values[i]]
        expected = {"prompts": len(members), "images": 2 * len(members), "reward": sum(own) / len(own)}
        assert found[name] == pytest.approx({**expected, "held_out_reward": None})
    assert SuitePrompts.read(str(rows)).by_category(record) == {}
