import math

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from hn.evaluation.metrics.cmmd import cmmd, frechet_distance, kid


def features(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def naive_cmmd(x: torch.Tensor, y: torch.Tensor, unbiased: bool) -> float:
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)

    def mean(u: torch.Tensor, v: torch.Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(u)) for j in range(len(v)) if not (same and unbiased and i == j)]
        return sum(math.exp(-float(((u[i] - v[j]) ** 2).sum()) / 200) for i, j in pairs) / len(pairs)

    return 1000 * (mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))


@pytest.mark.parametrize("unbiased", [True, False])
def test_cmmd_equals_naive_loops(unbiased):
    x, y = features(7, 5, 0), features(11, 5, 1) + 0.5
    assert cmmd(x, y, unbiased=unbiased) == pytest.approx(naive_cmmd(x, y, unbiased), rel=1e-10)


def test_cmmd_of_blocks_equals_that_of_two_points():
    # 1500 copies (more than one block) of e1 against e2: within-set kernels are 1, across exp(-2 / 200)
    x, y = torch.eye(2)[[0]].expand(1500, 2), torch.eye(2)[[1]].expand(1100, 2)
    assert cmmd(x, y) == pytest.approx(2000 * (1 - math.exp(-0.01)), rel=1e-10)


def test_cmmd_ignores_the_length_of_embeddings():
    x, y = features(6, 4, 0), features(6, 4, 1)
    assert cmmd(3 * x, 0.1 * y) == pytest.approx(cmmd(x, y), rel=1e-9)


def test_unbiased_cmmd_of_equal_distributions_scatters_around_zero():
    estimates = torch.tensor([cmmd(features(50, 8, 2 * s), features(50, 8, 2 * s + 1)) for s in range(40)])
    assert estimates.min() < 0 < estimates.max()
    assert abs(estimates.mean()) < 3 * estimates.std() / 40**0.5


def test_frechet_of_diagonal_gaussians_has_a_closed_form():
    # columns +-s are uncorrelated over all sign patterns: covariance diag(s^2 * n / (n - 1))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).double()
    s, t = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 0.5, 3.0]).double()
    shift = torch.tensor([1.0, 0.0, -2.0]).double()
    expected = 5.0 + (8 / 7) * float(((s - t) ** 2).sum())
    assert frechet_distance(signs * s, signs * t + shift) == pytest.approx(expected, rel=1e-12)


def test_frechet_equals_the_matrix_root():
    x, y = features(60, 6, 0) @ features(6, 6, 2), features(80, 6, 1) @ features(6, 6, 3) + 1
    cov_x, cov_y = torch.cov(x.T), torch.cov(y.T)
    root = torch.linalg.eigvals(cov_x @ cov_y).sqrt().real.sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + cov_x.trace() + cov_y.trace() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-9)


def test_frechet_is_zero_for_equal_sets_of_fewer_samples_than_dimensions():
    x = features(10, 64, 0)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-10)


def test_half_precision_features_are_computed_in_double():
    x, y = features(20, 8, 0, torch.float16), features(20, 8, 1, torch.float16)
    assert frechet_distance(x, y) == frechet_distance(x.double(), y.double())
    assert cmmd(x, y) == cmmd(x.double(), y.double())


def test_kid_is_that_of_torchmetrics_on_one_subset_of_all():
    x, y = features(40, 7, 0), features(40, 7, 1) * 1.5 + 0.3
    assert kid(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)
    assert kid(x, y, degree=2) == pytest.approx(float(poly_mmd(x, y, degree=2)), rel=1e-10)


def test_kid_of_sets_of_two_sizes_equals_naive_loops():
    x, y = features(5, 3, 0), features(1100, 3, 1)  # more than one block
    kernel = lambda u, v: (float(u @ v) / 3 + 1) ** 3  # noqa: E731
    within = sum(kernel(u, v) for i, u in enumerate(x) for j, v in enumerate(x) if i != j) / 20
    products = (y @ y.T / 3 + 1) ** 3
    other = float(products.sum() - products.diagonal().sum()) / (1100 * 1099)
    between = sum(kernel(u, v) for u in x for v in y) / 5500
    assert kid(x, y) == pytest.approx(within + other - 2 * between, rel=1e-9)


@pytest.mark.parametrize("distance", [cmmd, frechet_distance, kid])
@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((1, 3), (4, 3)), ((4,), (4,))])
def test_bad_shapes_are_named(distance, shapes):
    with pytest.raises(ValueError, match="features must be"):
        distance(*(torch.zeros(shape) for shape in shapes))
