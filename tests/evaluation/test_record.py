import json
import math

import numpy as np
import pytest
import torch

from hn.evaluation.methods import MethodOutput
from hn.evaluation.metrics.bootstrap import paired_bootstrap
from hn.evaluation.metrics.cmmd import cmmd
from hn.evaluation.record import MethodRecord, joined
from hn.evaluation.samples import Samples

NAN = float("nan")
TAGS = {0: "colors", 1: "colors", 2: "counting", 3: "counting", 4: None}


def add(record, index, scores, kl=None, seconds=1.0, nfe=None):
    rows = [{"tag": TAGS[i]} if TAGS[i] else {} for i in index]
    samples = Samples(["x"] * len(index), rows, index, [0] * len(index), 0, torch.zeros(len(index), 1))
    output = MethodOutput(torch.zeros(len(index), 3, 1, 1), None if kl is None else torch.tensor(kl), seconds, nfe)
    record.add(samples, output, {name: torch.tensor(value) for name, value in scores.items()})


@pytest.fixture
def record():
    """Two batches, the prompts out of order, two images each of the first three prompts."""
    record = MethodRecord("hypernetwork", nfe=2)
    first = {"reward": [1.0, 3.0, 5.0, 7.0], "reward/clip": [1.0, 3.0, 5.0, 7.0], "correct": [1.0, 0.0, 1.0, 1.0]}
    add(record, [2, 2, 0, 0], first, kl=[1.0, 2.0, 3.0, 4.0], seconds=3.0)
    second = {"reward": [2.0, 4.0, 9.0, 6.0], "reward/clip": [2.0, 4.0, 9.0, 6.0], "correct": [0.0, 0.0, 0.0, NAN]}
    add(record, [1, 1, 3, 4], second, kl=[5.0, 6.0, 7.0, 8.0], seconds=1.0)
    return record


def test_prompts_are_averaged_and_ordered(record):
    means, tags = record.per_prompt("reward")
    np.testing.assert_array_equal(means, [6.0, 3.0, 2.0, 9.0, 6.0])
    assert tags.tolist() == ["colors", "colors", "counting", "counting", "all"]


def test_geneval_is_the_mean_over_tags_of_what_can_be_answered(record):
    # colors: 2 of 4 images; counting: 1 of 3; "all" asks nothing that could be answered
    assert record.geneval() == pytest.approx({"overall": (2 / 4 + 1 / 3) / 2, "colors": 2 / 4, "counting": 1 / 3})


def test_no_verdicts_is_none_not_zero():
    record = MethodRecord("base", 1)
    add(record, [0], {"reward": [1.0]})
    assert record.geneval() is None
    add(record, [1], {"reward": [1.0], "correct": [NAN]})
    unanswered = MethodRecord("base", 1)
    add(unanswered, [0], {"reward": [1.0], "correct": [NAN]})
    assert unanswered.geneval() is None


def test_summary_of_the_base_alone(record):
    summary = record.summary()
    assert summary == {
        "reward": pytest.approx(37 / 8),
        "rewards": {"clip": pytest.approx(37 / 8)},
        "held_out_reward": None,
        "held_out_rewards": {},
        "geneval": record.geneval(),
        "seconds_per_image": 0.5,
        "nfe": 2,
        "kl_nats": 4.5,
        "cmmd": None,
        "diversity": None,
        "images": 8,
    }
    json.dumps(summary, allow_nan=False)


def test_passes_of_a_search_are_averaged_over_the_images(record):
    found = MethodRecord("reno")
    add(found, [0, 1, 2], {"reward": [1.0] * 3}, nfe=10.0)
    found = MethodRecord.of_state(*found.state())
    add(found, [3], {"reward": [1.0]}, nfe=4.0)
    assert found.nfe == (3 * 10 + 4) / 4
    assert record.nfe == 2


def test_intervals_are_those_of_a_paired_bootstrap_over_prompts():
    rng = np.random.default_rng(0)
    base, better = MethodRecord("base", 1), MethodRecord("better", 2)
    columns = {}
    for record, gain in ((base, 0.0), (better, 0.5)):
        rewards = (rng.normal(size=4) + gain).round(3)
        correct = [0.0, gain > 0, 0.0, 1.0]
        columns[record.name] = (rewards, np.array(correct, dtype=float))
        scores = {"reward": rewards.tolist(), "held_out": (2 * rewards).tolist(), "correct": [*map(float, correct)]}
        scores["held_out/clip"] = scores["held_out"]
        order = [0, 1, 2, 3] if record is base else [3, 1, 0, 2]  # prompts are matched by number
        add(record, order, {name: [values[i] for i in order] for name, values in scores.items()})
    summary = better.summary(base)
    tags = ["colors", "colors", "counting", "counting"]
    reward = paired_bootstrap(columns["base"][0], columns["better"][0])
    geneval = paired_bootstrap(columns["base"][1], columns["better"][1], tags)
    assert summary["reward_delta_ci95"] == pytest.approx([reward.low, reward.high])
    assert summary["held_out_reward_delta_ci95"] == pytest.approx([2 * reward.low, 2 * reward.high])
    assert summary["geneval_delta_ci95"] == pytest.approx([geneval.low, geneval.high])
    assert "reward_delta_ci95" not in base.summary()


def test_missing_measurements_are_none_beside_the_base(record):
    bare, base = MethodRecord("finetune", 1), MethodRecord("base", 1)
    for one in (bare, base):
        add(one, [0, 1], {"reward": [1.0, 2.0]})
    summary = bare.summary(base)
    missing = {"kl_nats", "geneval", "geneval_delta_ci95", "held_out_reward", "held_out_reward_delta_ci95"}
    missing |= {"cmmd", "diversity"}
    assert {name for name, value in summary.items() if value is None} == missing
    assert summary["reward_delta_ci95"] == [0.0, 0.0]


def test_a_method_with_one_finite_score_has_no_interval():
    diverged, base = MethodRecord("finetune", 1), MethodRecord("base", 1)
    add(diverged, [0, 2], {"reward": [1.0, NAN], "correct": [0.0, 1.0]})
    add(base, [0, 2], {"reward": [1.0, 2.0], "correct": [0.0, 1.0]})
    summary = diverged.summary(base)
    assert summary["reward"] == 1.0
    assert summary["reward_delta_ci95"] is None
    assert summary["not_finite"]["scores"] == {"reward": {"left_out": 1, "n": 1}}
    assert summary["geneval_delta_ci95"] == [0.0, 0.0]


def test_prompts_without_verdict_are_left_out_of_the_interval():
    one, base = MethodRecord("one", 1), MethodRecord("base", 1)
    add(one, [0, 1, 4], {"reward": [1.0, 2.0, 3.0], "correct": [1.0, 1.0, NAN]})
    add(base, [0, 1, 4], {"reward": [1.0, 2.0, 3.0], "correct": [0.0, 0.0, NAN]})
    assert one.summary(base)["geneval_delta_ci95"] == [1.0, 1.0]


def test_cmmd_is_the_distance_to_the_reference():
    record = MethodRecord("base", 1)
    features, reference = torch.randn(2, 4).tolist(), torch.randn(5, 4)
    add(record, [0, 1], {"reward": [1.0, 2.0], "features": features})
    summary = record.summary(reference={"features": reference})
    assert math.isfinite(summary["cmmd"])
    assert summary["cmmd"] == pytest.approx(cmmd(torch.tensor(features), reference))


def trace(*points):
    return [{"nfe": n, "reward_calls": n, "seconds": s, "best_reward": torch.tensor(r)} for n, s, r in points]


def searched(traces, peaks=(None,)):
    record = MethodRecord("reno_2")
    for number, (points, peak) in enumerate(zip(traces, [*peaks, *[None] * len(traces)], strict=False)):
        samples = Samples(["x"] * 2, [{}] * 2, [2 * number, 2 * number + 1], [0, 0], 0, torch.zeros(2, 1))
        output = MethodOutput(torch.zeros(2, 3, 1, 1), None, 1.0, peak_memory_bytes=peak, trace=points)
        record.add(samples, output, {"reward": torch.tensor([0.0, 0.0])})
    return record


def test_the_trace_of_a_search_is_averaged_over_all_images():
    first, second = trace((1, 2.0, [1.0, 3.0]), (2, 4.0, [2.0, 4.0])), trace((1, 1.0, [0.0, 0.0]), (2, 2.0, [5.0, 1.0]))
    record = searched([first, second])
    expected = [
        {"nfe": 1, "seconds_per_image": 0.75, "reward": 1.0},
        {"nfe": 2, "seconds_per_image": 1.5, "reward": 3.0},
    ]
    assert record.trace() == expected
    tensors, facts = record.state()
    assert MethodRecord.of_state(tensors, json.loads(json.dumps(facts))).trace() == expected
    assert MethodRecord("base", 1).trace() == []


def test_a_trace_that_ended_early_stays_where_it_was():
    record = searched([trace((1, 2.0, [1.0, 1.0]), (2, 4.0, [2.0, 2.0])), trace((1, 1.0, [3.0, 3.0]))])
    assert record.trace()[1] == {"nfe": 1.5, "seconds_per_image": 1.25, "reward": 2.5}


def test_the_largest_peak_of_memory_counts():
    points = trace((1, 1.0, [0.0, 0.0]))
    record = searched([points] * 3, peaks=(5, 9, 7))
    tensors, facts = record.state()
    assert record.peak_memory_bytes == MethodRecord.of_state(tensors, facts).peak_memory_bytes == 9
    assert searched([points]).peak_memory_bytes is None


def test_one_image_with_finite_features_has_no_distance():
    record = MethodRecord("base", 1)
    add(record, [2, 3], {"reward": [1.0, 2.0], "features": [[math.nan, 2.0], [3.0, 4.0]]})
    reference = {"features": torch.randn(3, 2)}
    assert record.summary(reference=reference)["cmmd"] is None


def test_benchmark_metrics_are_means_over_the_rows_that_ask_them():
    record = MethodRecord("base", 1)
    add(record, [0, 1, 2], {"reward": [1.0, 2.0, 3.0], "benchmark/soft_tifa": [0.25, math.nan, 0.75]})
    assert record.summary()["benchmarks"] == {"soft_tifa": 0.5}
    plain = MethodRecord("base", 1)
    add(plain, [0], {"reward": [1.0]})
    assert "benchmarks" not in plain.summary()


def test_one_prompt_has_no_interval():
    record = MethodRecord("base", 1)
    add(record, [0, 0], {"reward": [1.0, 2.0]})
    assert record.interval("reward") is None


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_score_that_is_not_finite_is_counted_named_and_left_out(value):
    record, base = MethodRecord("hypernetwork", nfe=2), MethodRecord("base", nfe=1)
    for each, scores in ((record, [1.0, value, 3.0, value, 5.0]), (base, [0.0] * 5)):
        names = {"reward": scores, "reward/clip": scores, "held_out": [2.0] * 5, "correct": [1.0, 1.0, NAN, 1.0, NAN]}
        add(each, [0, 0, 1, 2, 3], names, kl=[1.0] * 5)
    tensors, facts = record.state()
    record = MethodRecord.of_state(tensors, json.loads(json.dumps(facts)))
    summary = record.summary(base)
    assert summary["reward"] == summary["rewards"]["clip"] == 3.0
    assert summary["held_out_reward"] == 2.0
    left_out = {"left_out": 2, "n": 3}
    assert summary["not_finite"] == {"scores": {"reward": left_out, "reward/clip": left_out}, "prompts": ["x", "x"]}
    assert "not_finite" not in base.summary()
    assert np.isnan(record.per_prompt("reward")[0][2])
    found = paired_bootstrap(np.zeros(3), np.array([1.0, 3.0, 5.0]), None)
    assert summary["reward_delta_ci95"] == [found.low, found.high]
    parts = [MethodRecord("hypernetwork", nfe=2) for _ in range(2)]
    add(parts[0], [0, 1], {"reward": [1.0, value]}, kl=[1.0] * 2)
    add(parts[1], [2], {"reward": [3.0]}, kl=[1.0])
    assert joined(parts).summary()["not_finite"]["scores"] == {"reward": {"left_out": 1, "n": 2}}


def test_features_that_are_not_finite_are_left_out_of_distances():
    features = torch.rand(6, 4)
    record, clean = MethodRecord("a", 1), MethodRecord("a", 1)
    add(clean, [0, 0, 1, 1], {"features": features[:4].tolist()})
    add(record, [0, 0, 1, 1, 2], {"features": [*features[:4].tolist(), [NAN] * 4]})
    reference = {"features": torch.rand(5, 4)}
    for key in ("cmmd", "diversity"):
        assert record.summary(None, reference)[key] == pytest.approx(clean.summary(None, reference)[key])
