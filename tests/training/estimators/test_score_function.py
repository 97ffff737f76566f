import math

import pytest
import torch
from torch import Tensor

from hn.generators.base import Generator
from hn.generators.noise import seeded
from hn.generators.subspaces import LowFrequency, Subspace, WholeSpace
from hn.rewards.ensemble import RewardOutput
from hn.training.estimators import Pathwise, ScoredBatch, ScoreFunction

SUBSPACES = {"low frequencies": lambda: LowFrequency(2), "whole space": WholeSpace}


def quadratic(noise: Tensor, curvature: Tensor, target: Tensor) -> Tensor:
    """r(x) = -1/2 (x - a)^T M (x - a), [N]."""
    offset = noise.flatten(1) - target
    return -0.5 * torch.einsum("ni,ij,nj->n", offset, curvature, offset)


def estimate(estimator: ScoreFunction, modulated: Tensor, reward, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores [B] and their gradient with respect to `modulated`."""
    modulated = modulated.detach().requires_grad_()
    streams = [seeded(seed, number) for number in range(len(modulated))]
    score = lambda noise, repeats: RewardOutput(reward(noise), {"quadratic": reward(noise)})  # noqa: E731
    total = estimator(ScoredBatch(modulated, score, streams, ["a"] * len(streams))).total
    return total.detach(), torch.autograd.grad(total.sum(), modulated)[0]


def smoothed_gradient(modulated: Tensor, subspace: Subspace, sigma: float, curvature: Tensor, target: Tensor) -> Tensor:
    """Exact gradient of E_e[r(T - P T + sqrt(1 - s^2) P T + s P e)], projected: the noise's variance moves no gradient
    of a quadratic."""
    keep = math.sqrt(1 - sigma**2)
    mean = modulated - (1 - keep) * subspace.project(modulated)
    gradient = -(mean.flatten(1) - target) @ curvature
    return keep * subspace.project(gradient.unflatten(1, modulated.shape[1:]))


@pytest.fixture
def curvature() -> Tensor:
    factor = torch.randn(72, 72, dtype=torch.float64, generator=seeded(7)) / 8
    return factor @ factor.T


@pytest.mark.parametrize("name", SUBSPACES)
def test_the_mean_estimate_is_the_gradient_of_the_smoothed_reward(
    name: str, identity: Generator, curvature: Tensor
) -> None:
    samples, sigma = 4096, 0.6
    estimator = ScoreFunction(SUBSPACES[name](), samples, sigma)
    estimator.build(identity)
    target = torch.linspace(-1, 1, 72, dtype=torch.float64)
    modulated = torch.randn(16, *identity.noise_shape, dtype=torch.float64, generator=seeded(1))
    exact = smoothed_gradient(modulated, estimator.subspace, sigma, curvature, target)

    _, found = estimate(estimator, modulated, lambda noise: quadratic(noise, curvature, target))

    # Standard error of a coefficient: |gradient| sqrt(D / pairs); four of them, on average over samples.
    error = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    expected = math.sqrt(estimator.subspace.dimensions / (samples / 2))
    assert error.mean() < 1.5 * expected
    bias = (found - exact).mean(0).norm() / exact.flatten(1).norm(dim=1).mean()
    assert bias < 1.5 * expected / math.sqrt(len(modulated))


def test_a_constant_added_to_the_reward_changes_nothing(identity: Generator, curvature: Tensor) -> None:
    estimator = ScoreFunction(LowFrequency(2), 4, 0.8)
    estimator.build(identity)
    modulated = torch.randn(5, *identity.noise_shape, dtype=torch.float64, generator=seeded(2))
    target = torch.zeros(72, dtype=torch.float64)
    scores, gradient = estimate(estimator, modulated, lambda noise: quadratic(noise, curvature, target))
    shifted, same = estimate(estimator, modulated, lambda noise: quadratic(noise, curvature, target) + 1000)
    torch.testing.assert_close(shifted, scores + 1000)
    torch.testing.assert_close(same, gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", SUBSPACES)
def test_perturbed_noise_is_standard_normal_where_the_modulated_one_is(name: str, identity: Generator) -> None:
    estimator = ScoreFunction(SUBSPACES[name](), 2, 0.8)
    estimator.build(identity)
    seen: list[Tensor] = []

    def reward(noise: Tensor) -> Tensor:
        seen.append(noise.flatten(1))
        return noise.flatten(1).sum(1)

    n = 20_000
    estimate(estimator, torch.randn(n, *identity.noise_shape, dtype=torch.float64, generator=seeded(3)), reward)
    one_of_each_pair = seen[0][::2]
    covariance = one_of_each_pair.T @ one_of_each_pair / n
    # Of n samples, a variance has a standard error of sqrt(2 / n) = 0.01 and a covariance of 0.007.
    assert (covariance - torch.eye(72, dtype=torch.float64)).abs().max() < 0.05
    assert one_of_each_pair.mean(0).abs().max() < 0.035


def test_the_estimate_lies_in_the_subspace(identity: Generator, curvature: Tensor) -> None:
    estimator = ScoreFunction(LowFrequency(2), 4, 0.8)
    estimator.build(identity)
    modulated = torch.randn(3, *identity.noise_shape, dtype=torch.float64, generator=seeded(4))
    target = torch.zeros(72, dtype=torch.float64)
    _, gradient = estimate(estimator, modulated, lambda noise: quadratic(noise, curvature, target))
    torch.testing.assert_close(estimator.subspace.project(gradient), gradient)
    assert gradient.norm() > 0


def test_generator_and_rewards_run_without_gradients(identity: Generator) -> None:
    estimator = ScoreFunction(LowFrequency(1), 2, 0.5)
    estimator.build(identity)

    def verdict(noise: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and not noise.requires_grad
        return (noise.flatten(1).sum(1) > 0).double()

    scores, gradient = estimate(
        estimator, torch.randn(64, *identity.noise_shape, dtype=torch.float64, generator=seeded(5)), verdict
    )
    assert set(scores.tolist()) <= {0.0, 0.5, 1.0}
    assert gradient.flatten(1).sum(1).mean() > 0  # more of every channel's mean, more verdicts


def test_a_samples_estimate_depends_on_its_own_stream_alone(identity: Generator, curvature: Tensor) -> None:
    estimator = ScoreFunction(LowFrequency(2), 4, 0.8)
    estimator.build(identity)
    target = torch.zeros(72, dtype=torch.float64)
    modulated = torch.randn(4, *identity.noise_shape, dtype=torch.float64, generator=seeded(6))
    reward = lambda noise: quadratic(noise, curvature, target)  # noqa: E731
    _, together = estimate(estimator, modulated, reward)
    _, first = estimate(estimator, modulated[:1], reward)
    torch.testing.assert_close(first, together[:1])


def test_pathwise_is_the_reward_itself(identity: Generator) -> None:
    modulated = torch.randn(3, *identity.noise_shape, requires_grad=True)
    score = lambda noise, repeats: RewardOutput(noise.flatten(1).square().sum(1), {})  # noqa: E731
    total = Pathwise()(ScoredBatch(modulated, score, [], [])).total
    total.sum().backward()
    torch.testing.assert_close(modulated.grad, 2 * modulated.detach())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 3}, "samples must be an even number"),
        ({"samples": 0}, "samples must be an even number"),
        ({"sigma": 0.0}, "sigma must be between 0 and 1"),
        ({"sigma": 1.0}, "sigma must be between 0 and 1"),
        ({"updates_per_batch": 0}, "updates_per_batch must be at least 1"),
        ({"ratio_clip": 1.0}, "ratio_clip above 1"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreFunction(LowFrequency(), **arguments)


def test_a_cutoff_above_the_noise_is_refused(identity: Generator) -> None:
    with pytest.raises(ValueError, match="at most 4"):
        ScoreFunction(LowFrequency(5)).build(identity)


def moved_estimate(identity: Generator, moved: float, clip: float, samples: int = 4) -> tuple[Tensor, Tensor, list]:
    """The second update's estimate after T has moved by `moved` in every coefficient, with what was scored."""
    estimator = ScoreFunction(LowFrequency(2), samples, 0.6, updates_per_batch=2, ratio_clip=clip)
    estimator.build(identity)
    modulated = torch.randn(3, *identity.noise_shape, dtype=torch.float64, generator=seeded(8))
    calls: list[Tensor] = []

    def score(noise: Tensor, repeats: int) -> RewardOutput:
        calls.append(noise)
        return RewardOutput(noise.flatten(1).sum(1).sin(), {})

    def batch(noise: Tensor, repeat: int) -> ScoredBatch:
        streams = [seeded(9, number) for number in range(3)]
        return ScoredBatch(noise, score, streams, ["a", "b", "c"], repeat=repeat)

    estimator(batch(modulated, 0))
    later = modulated + estimator.subspace.expand(torch.full((3, 12), moved, dtype=torch.float64))
    later.requires_grad_()
    total = estimator(batch(later, 1)).total
    assert estimator.kept_scores() == {}  # nobody needs them any more
    return torch.autograd.grad(total.sum(), later)[0], estimator.directions(batch(later, 1)), calls


def test_a_second_update_weighs_the_same_scores_by_their_densities(identity: Generator) -> None:
    moved, sigma, keep = 0.05, 0.6, 0.8
    gradient, directions, calls = moved_estimate(identity, moved, clip=1e6)
    assert len(calls) == 1
    rewards = calls[0].flatten(1).sum(1).sin().unflatten(0, (3, 4))
    advantages = rewards - rewards.mean(1, keepdim=True)
    d = torch.full((12,), keep * moved, dtype=torch.float64)
    gaussian = torch.distributions.Normal(0, sigma)
    log_ratio = gaussian.log_prob(sigma * directions - d).sum(2) - gaussian.log_prob(sigma * directions).sum(2)
    score = keep * (sigma * directions - d) / sigma**2  # of the moved density
    expected = ((log_ratio.exp() * advantages)[..., None] * score).mean(1)
    torch.testing.assert_close(LowFrequency(2).build(identity).coefficients(gradient), expected)


def test_ratios_out_of_bounds_no_longer_push(identity: Generator) -> None:
    gradient, directions, calls = moved_estimate(identity, moved=0.5, clip=1.001)
    rewards = calls[0].flatten(1).sum(1).sin().unflatten(0, (3, 4))
    advantages = rewards - rewards.mean(1, keepdim=True)
    d = torch.full((12,), 0.4, dtype=torch.float64)
    log_ratio = (0.6 * directions * d).sum(2) / 0.36 - 0.5 * d.square().sum() / 0.36
    pushes = torch.where(log_ratio > 0, advantages < 0, advantages > 0)  # min(ratio A, clipped A) is the unclipped one
    score = 0.8 * (0.6 * directions - d) / 0.36
    expected = ((log_ratio.exp() * advantages * pushes)[..., None] * score).mean(1)
    torch.testing.assert_close(LowFrequency(2).build(identity).coefficients(gradient), expected)


@pytest.mark.parametrize("other", ["prompts", "noises", "samples", "batch size", "none"])
def test_kept_scores_serve_the_batch_alone_that_they_are_of(other: str, identity: Generator) -> None:
    """A run may be continued with other prompts, seeds or options."""
    sizes: list[int] = []

    def score(noise: Tensor, repeats: int) -> RewardOutput:
        sizes.append(len(noise))
        return RewardOutput(noise.flatten(1).sum(1), {})

    def batch(n: int, repeat: int, seed: int = 0, prompt: str = "a") -> ScoredBatch:
        noise = torch.randn(n, *identity.noise_shape, generator=seeded(seed))
        return ScoredBatch(noise, score, [seeded(seed, number) for number in range(n)], [prompt] * n, repeat=repeat)

    first = ScoreFunction(LowFrequency(1), 2, updates_per_batch=3)
    first.build(identity)
    first(batch(4, 0))
    second = ScoreFunction(LowFrequency(1), 4 if other == "samples" else 2, updates_per_batch=3)
    second.build(identity)
    second.keep_scores(first.kept_scores())
    changed = {"prompts": {"prompt": "b"}, "noises": {"seed": 1}}.get(other, {})
    second(batch(3 if other == "batch size" else 4, 1, **changed))
    assert sizes == {"samples": [8, 16], "batch size": [8, 6], "none": [8]}.get(other, [8, 8])
