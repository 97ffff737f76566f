import itertools

import numpy as np
import pytest

from hn.evaluation.metrics.bootstrap import paired_bootstrap


def test_equals_the_exact_distribution_of_three_prompts():
    difference = np.array([0.0, 1.0, 5.0])
    exact = sorted(np.mean(draw) for draw in itertools.product(difference, repeat=3))  # 27 equally likely means
    result = paired_bootstrap(np.zeros(3), difference, confidence=0.6, n_resamples=50_000)
    assert result.mean == pytest.approx(2.0)
    # 20 % and 80 % fall inside steps of the distribution, away from their edges
    assert result.low == pytest.approx(exact[int(0.2 * 27)])
    assert result.high == pytest.approx(exact[int(0.8 * 27)])
    assert result.n_prompts == 3


def test_covers_the_normal_interval_of_a_large_sample():
    rng = np.random.default_rng(1)
    a = rng.normal(size=2000)
    b = a + 0.1 + 0.5 * rng.normal(size=2000)
    result = paired_bootstrap(a, b)
    half_width = 1.96 * (b - a).std(ddof=1) / 2000**0.5
    assert result.mean == pytest.approx((b - a).mean())
    assert result.low == pytest.approx(result.mean - half_width, abs=0.05 * half_width)
    assert result.high == pytest.approx(result.mean + half_width, abs=0.05 * half_width)


def test_prompts_not_images_are_the_unit():
    rng = np.random.default_rng(2)
    by_prompt = rng.normal(size=(50, 1))
    once = paired_bootstrap(np.zeros(50), by_prompt[:, 0])
    repeated = paired_bootstrap(np.zeros((50, 4)), by_prompt.repeat(4, axis=1))
    assert repeated.low == pytest.approx(once.low)
    assert repeated.high == pytest.approx(once.high)


def test_groups_weigh_the_same_and_are_drawn_within():
    # two constant groups: whatever is drawn within them, their means do not change
    result = paired_bootstrap([0.0] * 5, [1.0, 1.0, 1.0, 1.0, 3.0], groups=["x"] * 4 + ["y"])
    assert (result.mean, result.low, result.high) == (2.0, 2.0, 2.0)


def test_the_seed_decides():
    b = np.random.default_rng(3).normal(size=40)
    assert paired_bootstrap(b * 0, b, seed=1) == paired_bootstrap(b * 0, b, seed=1)
    assert paired_bootstrap(b * 0, b, seed=1) != paired_bootstrap(b * 0, b, seed=2)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ([1.0, 2.0], [1.0], {}, "equal shapes"),
        ([], [], {}, "equal shapes"),
        ([1.0], [float("nan")], {}, "finite"),
        ([1.0], [2.0], {"confidence": 95}, "confidence"),
        ([1.0, 2.0], [2.0, 3.0], {"groups": ["x"]}, "group labels"),
    ],
)
def test_bad_input_is_named(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b, **options)
