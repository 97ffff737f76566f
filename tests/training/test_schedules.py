import pytest

from hn.training.schedules import learning_rate_factor, reward_weight_at


def test_the_rewards_weight_falls_geometrically() -> None:
    assert [reward_weight_at(step, 400.0, 100.0, 10) for step in (0, 5, 10, 15)] == [400.0, 200.0, 100.0, 100.0]
    assert reward_weight_at(7, 400.0, None, 10) == 400.0


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    found = [learning_rate_factor(step, 2, 6) for step in (0, 1, 2, 4, 6, 8)]
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0, 0.0])
    assert [learning_rate_factor(step, 2, None) for step in (0, 1, 100)] == [0.5, 1.0, 1.0]
