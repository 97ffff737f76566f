import pytest
import torch

from benchmarks.estimators import relative_variance, summary
from hn.generators.noise import seeded


def test_the_variance_is_for_one_evaluation_and_relative_to_the_mean_without_noise() -> None:
    """Estimates of 4 evaluations, N(1, 3^2) in each of 10 dimensions, of which few are drawn."""
    estimates = 1 + 3 * torch.randn(48, 200, 2, 5, generator=seeded(0))
    found = relative_variance(estimates, evaluations=4)
    assert found["squared_mean"] == pytest.approx(10, rel=0.05)  # 11.9 with the mean's own noise
    assert abs(found["squared_mean"] - 10) < 4 * found["squared_mean_error"]
    assert found["variance"] == pytest.approx(4 * 90 / 10, rel=0.05)


def test_the_error_is_that_of_the_squared_mean() -> None:
    found = [relative_variance(1 + torch.randn(16, 3, 4, generator=seeded(seed)), 1) for seed in range(200)]
    spread = torch.tensor([row["squared_mean"] for row in found]).std()
    error = torch.tensor([row["squared_mean_error"] for row in found]).square().mean().sqrt()
    assert 0.7 < error / spread < 1.6


def test_a_summary_has_medians_and_the_range() -> None:
    rows = [(2.0, 0.1), (4.0, 0.3), (3.0, 0.2)]
    assert summary(rows) == {"seconds": 3.0, "share_of_the_rest": 0.2, "share_range": (0.1, 0.3)}
