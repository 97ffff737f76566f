"""Budgets, early stop, early results and progress, the same for every search."""

import math

import pytest
import torch
from torch.testing import assert_close

from hn.search import BestOfN, Budget, Reno, WarmStart, ZeroOrderSearch
from hn.search import state as state_module

SEARCHES = {
    "best_of_n": lambda iterations, **options: BestOfN(iterations, **options),
    "reno": lambda iterations, **options: Reno(iterations, learning_rate=0.5, **options),
    "zero_order": lambda iterations, **options: ZeroOrderSearch(iterations - 1, neighbours=3, **options),
}


@pytest.fixture(params=SEARCHES)
def make_search(request):
    """(iterations, counting the first image as one, and options) -> search."""
    return SEARCHES[request.param]


def sources(seeds=range(8)):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def alone(search, generator, reward, prompts, noise):
    """The results of the prompts one after the other."""
    return [search(generator, reward, [prompt], noise[[i]], sources([i])) for i, prompt in enumerate(prompts)]


def assert_same(result, expected):
    for name in ("images", "noises", "rewards"):
        assert_close(getattr(result, name), getattr(expected, name), rtol=0, atol=1e-5)
    assert torch.equal(result.nfe, expected.nfe)
    assert torch.equal(result.reward_calls, expected.reward_calls)


def literal_end(rewards, patience, min_delta, each):
    """Number of images after which `patience` ends a prompt, from the rewards of all it could have."""
    best, to_improve, stale = rewards[0], rewards[0], 0
    for first in range(1, len(rewards), each):
        best = max(best, *rewards[first : first + each])
        if best > to_improve + min_delta:
            to_improve, stale = best, 0
        else:
            stale += 1
        if stale == patience:
            return first + each
    return len(rewards)


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("min_delta", [0.0, 0.004])
def test_a_prompt_ends_once_it_has_not_improved_for_so_long(
    make_search, generator, reward, prompts, noise, patience, min_delta
):
    seen = {prompt: [] for prompt in prompts}

    def spy(images, prompts_of_batch):
        scores = reward(images, prompts_of_batch)
        for prompt, score in zip(prompts_of_batch, scores.tolist(), strict=True):
            seen[prompt].append(score)
        return scores

    free = make_search(12, batch_size=5)
    free(generator, spy, prompts, noise, sources())
    each = free.evaluations_per_iteration
    ends = [literal_end(seen[prompt], patience, min_delta, each) for prompt in prompts]
    assert min_delta == 0 or min(ends) < free.evaluations
    made = sum(generator.generated)
    result = make_search(12, batch_size=5, budget=Budget(patience=patience, min_delta=min_delta))(
        generator, reward, prompts, noise, sources()
    )
    assert result.reward_calls.tolist() == ends
    assert torch.equal(result.nfe, result.reward_calls)
    best = [max(seen[prompt][:end]) for prompt, end in zip(prompts, ends, strict=True)]
    assert result.rewards.tolist() == pytest.approx(best, abs=1e-6)
    # images are made for those alone that go on
    assert sum(generator.generated) - made == sum(ends)
    assert result.trace[-1]["nfe"] == pytest.approx(sum(ends) / 8)


@pytest.mark.parametrize("batch_size", [3, 100])
@pytest.mark.parametrize(("steps", "min_delta"), [(1, 0.004), (2, 0.002)])
def test_a_batch_equals_single_runs_where_prompts_end_at_different_times(
    make_search, generator, reward, prompts, noise, batch_size, steps, min_delta
):
    search = make_search(
        12, batch_size=batch_size, steps=steps, budget=Budget(patience=2, min_delta=min_delta), report_at=[4]
    )
    together = search(generator, reward, prompts, noise, sources())
    assert len(set(together.nfe.tolist())) > 1
    assert torch.equal(together.nfe, steps * together.reward_calls)
    results = alone(search, generator, reward, prompts, noise)
    for found, others in ((together, results), (together.earlier[4], [result.earlier[4] for result in results])):
        for name in ("images", "noises", "rewards", "nfe", "reward_calls"):
            joined = torch.cat([getattr(result, name) for result in others])
            assert_close(getattr(found, name), joined, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("max_nfe", "of_iterations"), [(2, 1), (9, 4), (15, 7), (1000, 13)])
def test_no_more_evaluations_than_the_budget(make_search, generator, reward, prompts, noise, max_nfe, of_iterations):
    """With 2 steps; an iteration, of one image or of 3 neighbours, is made whole or not at all."""
    limited = make_search(13, steps=2, budget=Budget(max_nfe=max_nfe))
    each = limited.evaluations_per_iteration
    affordable = min(1 + (max_nfe // 2 - 1) // each, 13)
    assert affordable == (of_iterations if each == 1 else {1: 1, 4: 2, 7: 3, 13: 13}[of_iterations])
    result = limited(generator, reward, prompts, noise, sources())
    assert result.nfe.tolist() == [2 * (1 + (affordable - 1) * each)] * 8
    assert result.trace[-1]["nfe"] == result.nfe[0] <= max_nfe
    if affordable > 1:
        expected = make_search(affordable, steps=2)(generator, reward, prompts, noise, sources())
        assert_same(result, expected)
        assert [point["nfe"] for point in result.trace] == [point["nfe"] for point in expected.trace]
    else:
        assert torch.equal(result.noises, noise)


@pytest.mark.parametrize(("batch_size", "images"), [(8, 4), (4, 2), (2, 1)])
def test_seconds_are_shared_by_a_batch(monkeypatch, generator, reward, prompts, noise, batch_size, images):
    """A clock that moves by 1 at each batch: a share of it is 1 / batch_size, and half a second is allowed."""
    ticks = iter(range(1000))
    monkeypatch.setattr(state_module.time, "perf_counter", lambda: float(next(ticks)))
    for search in (Reno, BestOfN):
        made = len(generator.generated)
        result = search(10, batch_size=batch_size, budget=Budget(max_seconds=0.5))(generator, reward, prompts, noise)
        assert result.reward_calls.tolist() == [images] * 8
        assert len(generator.generated) - made == images * 8 / batch_size
        assert result.trace[-1]["seconds"] == images * 8 / batch_size
    result = Reno(10, budget=Budget(max_seconds=1e-9))(generator, reward, prompts, noise)
    assert torch.equal(result.noises, noise)  # one image at least


def test_early_results_are_those_of_smaller_searches(make_search, generator, reward, prompts, noise):
    free = make_search(9)
    each = free.evaluations_per_iteration
    counts = [1 + 2 * each, 1 + 5 * each]
    result = make_search(9, report_at=counts)(generator, reward, prompts, noise, sources())
    assert sum(generator.generated) == 8 * free.evaluations  # one run
    assert_same(result, free(generator, reward, prompts, noise, sources()))
    assert list(result.earlier) == counts
    for iterations, count in zip((3, 6), counts, strict=True):
        search = make_search(iterations)
        expected = search(generator, reward, prompts, noise, sources())
        found = result.earlier[count]
        assert_same(found, expected)
        assert found.reward_calls.tolist() == [count] * 8
        assert found.trace[-1]["nfe"] == count
        assert_close(found.trace[-1]["best_reward"], found.rewards, rtol=0, atol=0)
        assert 0 < found.trace[-1]["seconds"] < result.trace[-1]["seconds"]
        assert_close(free.kl_nats(noise, found), search.kl_nats(noise, expected), rtol=1e-4, atol=1e-4)
        assert not found.earlier


def test_the_kl_of_best_of_n_is_that_of_the_candidates_a_prompt_had(generator, reward, prompts, noise):
    search = BestOfN(20, report_at=[4], budget=Budget(patience=3))
    result = search(generator, reward, prompts, noise, sources())
    expected = [math.log(n) - (n - 1) / n for n in result.reward_calls.tolist()]
    assert len(set(expected)) > 1
    assert search.kl_nats(noise, result).tolist() == pytest.approx(expected)


def test_a_warm_start_counts_its_pass_and_keeps_the_search_s_budget(generator, reward, prompts, noise, hypernet):
    search = WarmStart(Reno(10, budget=Budget(max_nfe=6), report_at=[2]), hypernet)
    result = search(generator, reward, prompts, noise)
    assert result.reward_calls.tolist() == [5] * 8
    assert result.nfe.tolist() == [6] * 8
    assert result.earlier[2].nfe.tolist() == [3] * 8
    with pytest.raises(ValueError, match=r"max_nfe \(1\) is too small: one image needs 2 evaluations"):
        WarmStart(Reno(10, budget=Budget(max_nfe=1)), hypernet).check(generator)


def test_progress_is_told_after_every_batch(make_search, generator, reward, prompts, noise):
    told = []
    search = make_search(3, batch_size=4)
    search(generator, reward, prompts, noise, progress=lambda *numbers: told.append(numbers))
    total = 8 * search.evaluations
    assert told == [(4 * (i + 1), total) for i in range(total // 4)]
    told.clear()
    search = make_search(12, batch_size=100, budget=Budget(patience=1))
    result = search(generator, reward, prompts, noise, progress=lambda *numbers: told.append(numbers))
    made = int(result.reward_calls.sum())
    assert told[-1] == (made, made)
    assert [total for _, total in told] == sorted((total for _, total in told), reverse=True)


def test_conditioning_that_is_there_is_not_encoded_again(generator, reward, prompts, noise, monkeypatch):
    expected = Reno(3)(generator, reward, prompts, noise)
    conditioning = generator.encode(prompts)
    monkeypatch.setattr(generator, "encode", lambda prompts: pytest.fail("they are encoded already"))
    with torch.inference_mode():
        assert_same(Reno(3)(generator, reward, prompts, noise, conditioning=conditioning), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_nfe": 0}, "max_nfe must be at least 1"),
        ({"max_seconds": 0.0}, "max_seconds must be positive"),
        ({"max_seconds": float("nan")}, "max_seconds must be positive"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"patience": 1, "min_delta": -0.1}, "min_delta must not be negative"),
        ({"min_delta": 0.1}, "give `patience` too"),
    ],
)
def test_budgets_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Budget(**options)


def test_numbers_that_do_not_fit_are_named_before_an_image_is_made(generator, reward, prompts):
    for count in (0, 4, 5):
        with pytest.raises(ValueError, match=rf"report_at has {count}; BestOfN can report at 1 to 3 images"):
            BestOfN(4, report_at=[1, count])
    with pytest.raises(ValueError, match=r"report_at has 6; ZeroOrderSearch can report at 1, 5, 9, \.\.\. below 17"):
        ZeroOrderSearch(4, 4, report_at=[6])
    short = Reno(10, steps=3, budget=Budget(max_nfe=2))
    late = Reno(10, steps=3, budget=Budget(max_nfe=9), report_at=[4])
    for search, message in (
        (short, r"max_nfe \(2\) is too small: one image needs 3 evaluations"),
        (late, r"max_nfe \(9\) ends at 3 images, before report_at's 4"),
    ):
        for start in (lambda search: search.check(generator), lambda search: search(generator, reward, prompts)):
            with pytest.raises(ValueError, match=message):
                start(search)
    assert not generator.generated
