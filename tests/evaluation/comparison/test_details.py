"""Intervals, categories and rows of images."""

import numpy as np
import pytest
import torch

from hn.evaluation.comparison.details import categories_of, details, image_rows
from hn.evaluation.methods import MethodOutput
from hn.evaluation.metrics.bootstrap import paired_bootstrap
from hn.evaluation.record import MethodRecord
from hn.evaluation.samples import Samples

NAN = float("nan")
TAGS = ["colors", "colors", "counting", "counting", "other"]


CATEGORIES = dict(enumerate(TAGS))


def record_of(name, scores, kl=None):
    index, copy = [i for i in range(5) for _ in range(2)], [0, 1] * 5
    samples = Samples(["x"] * 10, [{"tag": TAGS[i]} for i in index], index, copy, 0, torch.zeros(10, 1))
    record = MethodRecord(name, 1)
    output = MethodOutput(torch.zeros(10, 3, 1, 1), kl, 1.0, peak_memory_bytes=7)
    record.add(samples, output, {key: torch.tensor(values) for key, values in scores.items()})
    return record


@pytest.fixture
def base():
    reward = [float(k) for k in range(10)]
    correct = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, NAN, NAN]
    return record_of("base", {"reward": reward, "reward/clip": reward, "held_out/other": reward, "correct": correct})


@pytest.fixture
def better():
    reward = [k**1.5 for k in range(10)]
    correct = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, NAN, NAN]
    return record_of("better", {"reward": reward, "reward/clip": reward, "held_out/other": reward, "correct": correct})


def test_intervals_of_a_method_are_of_its_prompts_means(base):
    found = details(base, CATEGORIES)
    means = np.arange(10.0).reshape(5, 2).mean(1)
    expected = paired_bootstrap(np.zeros(5), means)
    assert found["reward_ci95"] == [expected.low, expected.high]
    assert found["rewards_ci95"] == {"clip": found["reward_ci95"]}
    assert found["held_out_rewards_ci95"] == {"other": found["reward_ci95"]}
    assert found["held_out_reward_ci95"] is None
    geneval = paired_bootstrap(np.zeros(4), [0.5, 1.0, 0.0, 0.5], TAGS[:4])
    assert found["geneval_ci95"] == [geneval.low, geneval.high]
    assert found["peak_memory_bytes"] == 7
    assert not any("delta" in name for name in found)


def test_every_reward_has_its_difference_to_the_base(base, better):
    found = details(better, CATEGORIES, base)
    ours = np.array([k**1.5 for k in range(10)], dtype=np.float32).astype(float).reshape(5, 2).mean(1)
    expected = paired_bootstrap(np.arange(10.0).reshape(5, 2).mean(1), ours)
    assert found["rewards_delta_ci95"]["clip"] == pytest.approx([expected.low, expected.high])
    assert found["held_out_rewards_delta_ci95"]["other"] == pytest.approx([expected.low, expected.high])


def test_categories_are_counted_and_averaged(base):
    found = categories_of(base, CATEGORIES)
    assert list(found) == ["colors", "counting", "other"]
    assert (found["colors"]["images"], found["colors"]["prompts"]) == (4, 2)
    assert [found[tag]["reward"] for tag in found] == [1.5, 5.5, 8.5]
    assert [found[tag]["geneval"] for tag in found] == [0.75, 0.25, None]
    assert found["other"]["geneval_ci95"] is None and found["colors"]["held_out_reward"] is None
    interval = paired_bootstrap([0.0, 0.0], [0.5, 2.5])
    assert found["colors"]["reward_ci95"] == [interval.low, interval.high]
    assert found["other"]["reward_ci95"] is None  # of one prompt


def test_categories_need_not_be_geneval_s_tags(base):
    found = details(base, {0: "easy", 1: "hard", 2: "easy", 3: "hard", 4: "hard"})
    assert {name: (entry["prompts"], entry["geneval"]) for name, entry in found["categories"].items()} == {
        "easy": (2, 0.25), "hard": (3, 0.75),
    }  # fmt: skip
    interval = paired_bootstrap([0.0, 0.0], [0.5, 0.0])
    assert found["categories"]["easy"]["geneval_ci95"] == [interval.low, interval.high]
    tags = {"colors": [0.5, 1.0], "counting": [0.0, 0.5]}
    of_tags = {tag: paired_bootstrap([0.0, 0.0], shares) for tag, shares in tags.items()}
    assert found["geneval_tags_ci95"] == {tag: [one.low, one.high] for tag, one in of_tags.items()}


def test_a_method_that_diverged_has_no_interval_in_that_category():
    reward = [NAN] * 4 + [*map(float, range(6))]
    found = categories_of(record_of("x", {"reward": reward}), CATEGORIES)
    assert found["colors"]["reward"] is None and found["colors"]["reward_ci95"] is None
    assert found["counting"]["reward_ci95"] is not None


def test_every_image_has_a_row(base):
    rows = list(image_rows(base, dict(enumerate("pqrst")), CATEGORIES))
    assert len(rows) == 10
    own = {"method": "base", "index": 1, "copy": 1, "category": "colors", "prompt": "q"}
    assert rows[3] == {**own, "reward": 3.0, "reward/clip": 3.0, "held_out/other": 3.0, "correct": True}
    assert [row["correct"] for row in rows[6:]] == [True, False, None, None]


def test_features_are_no_column_of_images():
    record = record_of("x", {"reward": [0.0] * 10, "features": [[0.0, 1.0]] * 10}, kl=torch.ones(10))
    assert list(next(image_rows(record, dict.fromkeys(range(5), "p"), CATEGORIES)))[5:] == ["kl_nats", "reward"]
