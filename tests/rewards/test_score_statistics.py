import pytest
import torch

from hn.rewards.score_statistics import ScoreStatistics


def test_mean_and_deviation() -> None:
    statistics = ScoreStatistics.of(torch.tensor([1.0, 2.0, 6.0]))
    assert statistics == ScoreStatistics(3.0, 7.0**0.5)
    torch.testing.assert_close(statistics.normalise(torch.tensor([3.0, 3 + 7**0.5])), torch.tensor([0.0, 1.0]))


def test_large_scores_keep_their_spread() -> None:
    scores = torch.tensor([16777214.0, 16777216.0] * 1000)
    assert ScoreStatistics.of(scores).std == pytest.approx((2000 / 1999) ** 0.5, rel=1e-12)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_numbers_that_no_scores_have_are_refused(mean: float, std: float) -> None:
    with pytest.raises(ValueError, match="a finite mean and a standard deviation above 0"):
        ScoreStatistics(mean, std)


def test_too_few_scores_are_refused() -> None:
    for scores in (torch.ones(1), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="scores \\[N\\] with N >= 2"):
            ScoreStatistics.of(scores)
    with pytest.raises(ValueError, match="standard deviation above 0"):
        ScoreStatistics.of(torch.ones(3))
