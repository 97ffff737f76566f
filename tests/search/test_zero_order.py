import math

import pytest
import torch
from torch.testing import assert_close

from hn.search import BestOfN, ZeroOrderSearch
from hn.search.zero_order import shell_neighbours


def literal_search(generator, reward, prompt, noise, rng, iterations, neighbours, radius):
    """One prompt, one candidate at a time. Returns the pivot and its reward after every iteration."""
    stream = torch.Generator().manual_seed(torch.randint(2**62, (1, 2), generator=rng).tolist()[0][0])
    conditioning = generator.encode([prompt])
    pivot, best = noise, reward(generator.generate(noise, conditioning, 1), [prompt]).item()
    pivots, rewards = [pivot], [best]
    cosine = 1 - radius**2 / 2
    for _ in range(iterations):
        centre = pivot
        for _ in range(neighbours):
            draw = torch.randn(1, *generator.noise_shape, generator=stream)
            across = draw - (draw * centre).sum() / centre.square().sum() * centre
            candidate = cosine * centre + math.sqrt(1 - cosine**2) * centre.norm() * across / across.norm()
            score = reward(generator.generate(candidate, conditioning, 1), [prompt]).item()
            if score > best:
                pivot, best = candidate, score
        pivots.append(pivot)
        rewards.append(best)
    return pivots, rewards


def sources(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("radius", [math.sqrt(0.1), 1.2])
def test_equals_a_loop_over_single_candidates(generator, reward, prompts, noise, radius):
    search = ZeroOrderSearch(iterations=5, neighbours=3, radius=radius, batch_size=7)
    result = search(generator, reward, prompts, noise, sources(range(8)))
    for i, (prompt, rng) in enumerate(zip(prompts, sources(range(8)), strict=True)):
        pivots, rewards = literal_search(generator, reward, prompt, noise[[i]], rng, 5, 3, radius)
        assert_close(result.noises[[i]], pivots[-1], rtol=0, atol=1e-5)
        assert [point["best_reward"][i].item() for point in result.trace] == pytest.approx(rewards, abs=1e-6)


def test_a_smooth_reward_improves_and_beats_random_search(generator, reward, prompts, noise):
    local = ZeroOrderSearch(iterations=16, neighbours=4)(generator, reward, prompts, noise, sources(range(8)))
    assert (local.rewards > local.trace[0]["best_reward"] + 0.01).all()
    rewards = torch.stack([point["best_reward"] for point in local.trace])
    assert (rewards.diff(dim=0) >= 0).all()
    random = BestOfN(n=65)(generator, reward, prompts, noise, sources(range(8)))
    assert local.trace[-1]["nfe"] == random.trace[-1]["nfe"]
    assert local.rewards.mean() > random.rewards.mean()


@pytest.mark.parametrize("radius", [1e-3, math.sqrt(0.1), 1.9])
def test_neighbours_are_as_long_as_the_pivot_and_at_the_radius(radius):
    pivots, draws = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    found = shell_neighbours(pivots, draws, radius)
    norms = pivots.flatten(1).norm(dim=1)
    assert_close(found.flatten(1).norm(dim=1), norms)
    assert_close((found - pivots).flatten(1).norm(dim=1), radius * norms)
    assert shell_neighbours(pivots.half(), draws, radius).dtype == torch.float16


def test_the_default_radius_is_the_published_cosine():
    pivots, draws = torch.randn(2, 5, 100, dtype=torch.float64)
    found = shell_neighbours(pivots, draws, ZeroOrderSearch().radius)
    assert_close(torch.cosine_similarity(pivots, found), torch.full((5,), 0.95, dtype=torch.float64))


def test_the_search_stays_on_the_shell(generator, reward, prompts, noise):
    result = ZeroOrderSearch(iterations=20)(generator, reward, prompts, noise)
    assert not torch.isclose(result.noises, noise).flatten(1).all(dim=1).any()
    assert_close(result.noises.flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("given", [True, False])
def test_a_batch_equals_single_runs(generator, reward, prompts, noise, steps, batch_size, given):
    search = ZeroOrderSearch(iterations=4, neighbours=3, steps=steps, batch_size=batch_size)
    start = noise if given else None
    together = search(generator, reward, prompts, start, sources(range(8)))
    assert max(generator.generated) <= batch_size
    alone = [
        search(generator, reward, [prompt], None if start is None else start[[i]], sources([i]))
        for i, prompt in enumerate(prompts)
    ]
    for name in ("images", "noises", "rewards"):
        joined = torch.cat([getattr(result, name) for result in alone])
        assert_close(getattr(together, name), joined, rtol=0, atol=1e-5)


def test_the_same_source_gives_the_same_result(generator, reward, prompts, noise):
    search = ZeroOrderSearch(iterations=3)
    one, same, other = (
        search(generator, reward, prompts, noise, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one.noises, same.noises)
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.noises, other.noises)


def test_trace_counts_the_budget_of_a_prompt(generator, reward, prompts, noise):
    search = ZeroOrderSearch(iterations=2, neighbours=5, steps=2, batch_size=100)
    result = search(generator, reward, prompts, noise)
    assert [point["nfe"] for point in result.trace] == [2, 12, 22]
    assert [point["reward_calls"] for point in result.trace] == [1, 6, 11]
    seconds = [point["seconds"] for point in result.trace]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert torch.equal(result.trace[-1]["best_reward"], result.rewards)
    assert generator.generated == [8, 40, 40]


def test_the_kept_image_belongs_to_the_kept_noise_and_reward(generator, reward, prompts, noise):
    result = ZeroOrderSearch(iterations=4)(generator, reward, prompts, noise)
    assert_close(result.images, generator.generate(result.noises, generator.encode(prompts), 1))
    assert_close(result.rewards, reward(result.images, prompts))


def test_of_equal_rewards_the_first_is_kept_and_no_gradient_is_needed(generator, prompts, noise):
    def constant(images, prompts):
        assert not images.requires_grad
        return images.mean(dim=(1, 2, 3)).mul(0).round()

    assert torch.equal(ZeroOrderSearch(iterations=2)(generator, constant, prompts, noise).noises, noise)


def test_an_undefined_reward_loses(generator, reward, prompts, noise):
    def undefined_at_first(images, prompts):
        scores = reward(images, prompts)
        return scores * torch.nan if len(generator.generated) == 1 else scores

    result = ZeroOrderSearch(iterations=1, batch_size=8)(generator, undefined_at_first, prompts, noise)
    assert torch.equal(result.trace[0]["best_reward"], torch.full((8,), -torch.inf))
    assert result.rewards.isfinite().all()


@pytest.mark.parametrize("options", [{"iterations": 0}, {"neighbours": 0}, {"radius": 0.0}, {"radius": 2.0}])
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ZeroOrderSearch(**options)
