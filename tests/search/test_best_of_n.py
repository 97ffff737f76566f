import pytest
import torch
from torch.testing import assert_close

from hn.search import BestOfN


def test_keeps_the_best_of_all_candidates(generator, reward, prompts, noise):
    seen = []

    def spy(images, prompts_of_batch):
        scores = reward(images, prompts_of_batch)
        seen.extend(zip(prompts_of_batch, scores.tolist(), strict=True))
        return scores

    result = BestOfN(n=7, batch_size=5)(generator, spy, prompts, noise)
    assert len(seen) == 7 * 8
    for i, prompt in enumerate(prompts):
        scores = [score for seen_prompt, score in seen if seen_prompt == prompt]
        assert len(set(scores)) == 7
        assert result.rewards[i].item() == max(scores)
        assert [point["best_reward"][i].item() for point in result.trace] == [max(scores[:n]) for n in (1, 2, 4, 7)]
    assert_close(result.images, generator.generate(result.noises, generator.encode(prompts), 1))
    assert_close(result.rewards, reward(result.images, prompts))


def test_the_given_noise_is_the_first_candidate(generator, reward, prompts, noise):
    result = BestOfN(n=1)(generator, reward, prompts, noise)
    assert torch.equal(result.noises, noise)
    assert_close(result.rewards, reward(generator.generate(noise, generator.encode(prompts), 1), prompts))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("given", [True, False])
def test_a_batch_equals_single_runs(generator, reward, prompts, noise, steps, batch_size, given):
    search = BestOfN(n=6, steps=steps, batch_size=batch_size)
    start = noise if given else None
    together = search(generator, reward, prompts, start, rng=torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    alone = [
        search(generator, reward, [prompt], None if start is None else start[[i]], rng)
        for i, prompt in enumerate(prompts)
    ]
    for name in ("images", "noises", "rewards"):
        joined = torch.cat([getattr(result, name) for result in alone])
        assert_close(getattr(together, name), joined, rtol=0, atol=1e-5)


def test_a_larger_n_only_adds_candidates(generator, reward, prompts, noise):
    few = BestOfN(n=4)(generator, reward, prompts, noise, torch.Generator().manual_seed(0))
    many = BestOfN(n=16)(generator, reward, prompts, noise, torch.Generator().manual_seed(0))
    at_four = next(point for point in many.trace if point["reward_calls"] == 4)
    assert_close(at_four["best_reward"], few.rewards)
    assert (many.rewards > few.rewards).any()


def test_default_randomness_follows_the_global_seed(generator, reward, prompts):
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(BestOfN(n=2)(generator, reward, prompts).noises)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_trace_has_powers_of_two_and_the_end(generator, reward, prompts):
    result = BestOfN(n=12, steps=2, batch_size=10)(generator, reward, prompts[:3])
    assert [point["reward_calls"] for point in result.trace] == [1, 2, 4, 8, 12]
    assert [point["nfe"] for point in result.trace] == [2, 4, 8, 16, 24]
    seconds = [point["seconds"] for point in result.trace]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert torch.equal(result.trace[-1]["best_reward"], result.rewards)
    assert generator.generated == [10, 10, 10, 6]


def test_an_undefined_reward_loses(generator, reward, prompts, noise):
    def undefined_at_first(images, prompts):
        scores = reward(images, prompts)
        return scores * torch.nan if len(generator.generated) == 1 else scores

    result = BestOfN(n=2, batch_size=8)(generator, undefined_at_first, prompts, noise)
    assert torch.equal(result.trace[0]["best_reward"], torch.full((8,), -torch.inf))
    assert result.rewards.isfinite().all()
    assert not torch.isclose(result.noises, noise).any(dim=(1)).all()


def test_needs_no_gradient(generator, prompts, noise):
    def rounded(images, prompts):
        assert not images.requires_grad
        return images.mean(dim=(1, 2, 3)).mul(100).round()

    assert BestOfN(n=3)(generator, rounded, prompts, noise).rewards.shape == (8,)


def test_bad_n_is_named():
    with pytest.raises(ValueError, match="n must be at least 1"):
        BestOfN(n=0)


def test_sources_of_its_own_make_a_prompt_independent_of_the_batch(generator, reward, prompts, noise):
    def sources(seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    search = BestOfN(n=4, steps=3)
    together = search(generator, reward, prompts, noise, rng=sources(range(8)))
    some = search(generator, reward, prompts[2:5], noise[2:5], rng=sources([2, 3, 4]))
    torch.testing.assert_close(some.images, together.images[2:5], rtol=1e-5, atol=1e-6)
    other = search(generator, reward, prompts[2:5], noise[2:5], rng=sources([2, 9, 4]))
    assert torch.allclose(other.images[0], some.images[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(other.images[1], some.images[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="3 prompts need as many sources of randomness, not 2"):
        search(generator, reward, prompts[2:5], noise[2:5], rng=sources([2, 3]))


def test_seeds_of_later_steps_can_be_given_and_every_image_is_told_of(generator, reward, prompts, noise):
    """With the seeds that the generator itself would draw from, the first candidates are its own images."""
    seen: dict[int, list] = {which: [] for which in range(8)}

    def observe(which, images, scores):
        for place, number in enumerate(which):
            seen[number].append((images[place], scores[place].item()))

    rngs = [torch.Generator().manual_seed(100 + i) for i in range(8)]
    options = {"step_seeds": range(100, 108), "observe": observe}
    result = BestOfN(3, steps=2, batch_size=5)(generator, reward, prompts, noise, rngs, **options)
    own = [torch.Generator().manual_seed(100 + i) for i in range(8)]
    expected = generator.generate(noise, generator.encode(prompts), 2, own)
    assert_close(torch.stack([seen[which][0][0] for which in range(8)]), expected)
    assert [max(score for _, score in seen[which]) for which in range(8)] == result.rewards.tolist()
    assert {len(images) for images in seen.values()} == {3}
    with pytest.raises(ValueError, match="8 prompts need as many step_seeds, not 2"):
        BestOfN(3)(generator, reward, prompts, noise, step_seeds=[1, 2])
