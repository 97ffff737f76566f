import math

import pytest
import torch
from torch import Tensor

from hn.objective import (
    exact_noise_kl,
    jacobian_terms,
    mean_square_penalty,
    noise_hypernetwork_loss,
    noise_kl,
    remainder_bound,
)

D = 3


def cubature(d: int) -> Tensor:
    """[2 d, d] points whose mean of any quadratic function is its exact mean over N(0, I)."""
    points = math.sqrt(d) * torch.eye(d, dtype=torch.float64)
    return torch.cat([points, -points])


@pytest.fixture
def affine() -> tuple[Tensor, Tensor]:
    """A and b of f(x) = A x + b, for which everything is known in closed form."""
    return 0.3 * torch.randn(D, D, dtype=torch.float64), torch.randn(D, dtype=torch.float64)


def test_penalties_are_per_sample_and_differ_by_the_dimension() -> None:
    f = torch.tensor([[[1.0, 2.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]])
    assert noise_kl(f).tolist() == [4.5, 8.0]
    assert mean_square_penalty(f).tolist() == [4.5 / 4, 8.0 / 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    f = torch.full((1, 65536), 2.0, dtype=dtype)
    assert noise_kl(f).item() == 131072.0  # above float16's largest number
    assert mean_square_penalty(f).item() == 2.0


def test_jacobian_terms_of_an_affine_map(affine: tuple[Tensor, Tensor]) -> None:
    a, b = affine
    trace, log_determinant = jacobian_terms(lambda x: a @ x + b, torch.randn(4, D, dtype=torch.float64))
    torch.testing.assert_close(trace, a.trace().expand(4))
    torch.testing.assert_close(log_determinant, torch.linalg.det(torch.eye(D) + a).abs().log().expand(4))


def test_jacobian_terms_of_a_nonlinear_map_with_spatial_shape() -> None:
    x = 0.3 * torch.randn(2, 1, 2, 2, dtype=torch.float64)
    trace, log_determinant = jacobian_terms(lambda x: x**3, x)  # a diagonal Jacobian, 3 x^2
    torch.testing.assert_close(trace, (3 * x**2).flatten(1).sum(1))
    torch.testing.assert_close(log_determinant, (1 + 3 * x**2).log().flatten(1).sum(1))


def test_exact_kl_equals_that_of_two_gaussians(affine: tuple[Tensor, Tensor]) -> None:
    """x + A x + b is N(b, M M^T) with M = I + A: the mean of the formula must be the textbook KL to N(0, I)."""
    a, b = affine
    m = torch.eye(D, dtype=torch.float64) + a
    covariance = m @ m.T
    expected = 0.5 * (covariance.trace() + b @ b - D - torch.logdet(covariance))
    kl = exact_noise_kl(lambda x: a @ x + b, cubature(D)).mean()
    torch.testing.assert_close(kl, expected)


def test_steins_identity(affine: tuple[Tensor, Tensor]) -> None:
    """E <x, f> = E tr J turns the change of variables into the formula that is used."""
    a, b = affine
    x = cubature(D)
    inner = (x * (x @ a.T + b)).sum(1).mean()
    torch.testing.assert_close(inner, jacobian_terms(lambda x: a @ x + b, x)[0].mean())


def test_the_bound_holds_for_what_the_regulariser_leaves_out() -> None:
    x = torch.randn(64, D, dtype=torch.float64)
    a = torch.randn(D, D, dtype=torch.float64)
    for lipschitz in (0.1, 0.5, 0.9):
        scaled = a * lipschitz / torch.linalg.matrix_norm(a, 2)
        trace, log_determinant = jacobian_terms(lambda x, m=scaled: torch.sin(m @ x), x)
        assert (trace - log_determinant).mean().abs() <= remainder_bound(D, lipschitz)
    # Reached by f(x) = -L x, so no smaller bound would do.
    trace, log_determinant = jacobian_terms(lambda x: -0.5 * x, x)
    torch.testing.assert_close((trace - log_determinant)[0].item(), remainder_bound(D, 0.5))


@pytest.mark.parametrize("lipschitz", [-0.1, 1.0, float("nan")])
def test_the_bound_needs_a_contraction(lipschitz: float) -> None:
    with pytest.raises(ValueError, match="Lipschitz constant in"):
        remainder_bound(D, lipschitz)


def test_loss_is_assembled_from_its_terms() -> None:
    f = torch.randn(4, 2, 3, 3)
    reward = torch.randn(4)
    published = noise_hypernetwork_loss(reward, f, "mean", reward_weight=2.0)
    paper = noise_hypernetwork_loss(reward, f, "sum", reward_weight=2.0)
    torch.testing.assert_close(published.loss, 0.5 * f.square().mean() - 2 * reward.mean())
    torch.testing.assert_close(paper.loss, 0.5 * f.square().sum() / 4 - 2 * reward.mean())
    torch.testing.assert_close(paper.regulariser, 18 * published.regulariser)
    assert published.kl == paper.kl == paper.regulariser
    assert published.reward == reward.mean()


def test_only_the_loss_s_own_terms_carry_gradients() -> None:
    terms = noise_hypernetwork_loss(torch.zeros(2), torch.randn(2, 5, requires_grad=True))
    assert terms.loss.requires_grad and terms.regulariser.requires_grad and not terms.kl.requires_grad


@pytest.mark.parametrize("regulariser", ["mean", "sum"])
def test_gradient_equals_finite_differences(regulariser: str) -> None:
    def loss(parameters: Tensor) -> Tensor:
        f = torch.tanh(parameters)
        return noise_hypernetwork_loss(f.flatten(1).sin().sum(1), f, regulariser, reward_weight=0.7).loss

    assert torch.autograd.gradcheck(loss, torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True))


def test_refuses_unknown_regularisers_and_batch_mean_rewards() -> None:
    with pytest.raises(ValueError, match="Unknown regulariser 'l1'"):
        noise_hypernetwork_loss(torch.zeros(2), torch.zeros(2, 3), "l1")
    with pytest.raises(ValueError, match="needs one reward per sample"):
        noise_hypernetwork_loss(torch.tensor(0.0), torch.zeros(2, 3))
