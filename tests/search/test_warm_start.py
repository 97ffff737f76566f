import pytest
import torch
from torch.testing import assert_close

from hn.search import BestOfN, Reno, WarmStart, ZeroOrderSearch


@pytest.mark.parametrize("search", [Reno(5, batch_size=3), ZeroOrderSearch(3, 2, batch_size=3)])
def test_is_the_search_from_modulated_noise_and_one_pass_more(generator, reward, prompts, noise, hypernet, search):
    start = hypernet.modulate(noise, generator.encode(prompts)).detach()
    rng = [torch.Generator().manual_seed(i) for i in range(8)]
    expected = search(generator, reward, prompts, start, rng)
    rng = [torch.Generator().manual_seed(i) for i in range(8)]
    found = WarmStart(search, hypernet)(generator, reward, prompts, noise, rng)
    for name in ("images", "noises", "rewards"):
        assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5)
    assert [point["nfe"] for point in found.trace] == [point["nfe"] + 1 for point in expected.trace]
    assert [point["reward_calls"] for point in found.trace] == [point["reward_calls"] for point in expected.trace]
    assert not found.noises.requires_grad
    cost = WarmStart(search, hypernet).kl_nats(noise, found)
    assert_close(cost, 0.5 * (found.noises - noise).flatten(1).square().sum(1))


def test_a_batch_equals_single_runs(generator, reward, prompts, noise, hypernet):
    search = WarmStart(Reno(4, steps=2, batch_size=3), hypernet)
    assert (search.steps, search.batch_size) == (2, 3)
    together = search(generator, reward, prompts, noise, torch.Generator().manual_seed(0))
    assert together.trace[-1]["nfe"] == 4 * 2 + 1
    rng = torch.Generator().manual_seed(0)
    alone = [search(generator, reward, [p], noise[[i]], rng).noises for i, p in enumerate(prompts)]
    assert_close(together.noises, torch.cat(alone), rtol=0, atol=1e-5)


def test_what_is_missing_or_makes_no_sense_is_named(generator, reward, prompts, noise, hypernet):
    with pytest.raises(ValueError, match="needs a hypernetwork"):
        WarmStart(Reno(2))(generator, reward, prompts, noise)
    assert WarmStart(Reno(2)).bound(hypernet).hypernet is hypernet


def test_best_of_n_chooses_among_the_noises_that_f_leads_to(generator, reward, prompts, noise, hypernet):
    streams = lambda: [torch.Generator().manual_seed(i) for i in range(len(prompts))]  # noqa: E731
    conditioning = generator.encode(prompts)
    search = BestOfN(4, batch_size=3, report_at=[2])
    found = WarmStart(search, hypernet)(generator, reward, prompts, noise, streams())
    scores, candidates = [], []
    for which, prompt in enumerate(prompts):
        seeds = torch.randint(2**62, (1, 2), generator=torch.Generator().manual_seed(which)).tolist()[0]
        stream = torch.Generator().manual_seed(seeds[0])
        raw = torch.cat([noise[[which]], *(generator.sample_noise(1, stream) for _ in range(3))])
        row = {name: tensor[[which] * 4] for name, tensor in conditioning.items()}
        modulated = hypernet.modulate(raw, row).detach()
        steps = [torch.Generator().manual_seed(seeds[1]) for _ in range(4)]
        scores.append(reward(generator.generate(modulated, row, rng=steps), [prompt] * 4).detach())
        candidates.append(modulated)
    best = torch.stack([score.max() for score in scores])
    assert_close(found.rewards, best.float(), rtol=0, atol=1e-5)
    chosen = torch.stack([each[score.argmax()] for each, score in zip(candidates, scores, strict=True)])
    assert_close(found.noises, chosen, rtol=0, atol=1e-5)
    of_two = torch.stack([score[:2].max() for score in scores])
    assert_close(found.earlier[2].rewards, of_two.float(), rtol=0, atol=1e-5)
    # Each image costs a step and f's pass; the nats are f's and those of the choice.
    assert found.trace[-1]["nfe"] == 4 * (generator.steps + hypernet.extra_nfe)
    spent = 0.5 * (hypernet.modulate(noise, conditioning) - noise).flatten(1).square().sum(1).detach()
    chosen_among_4 = torch.full((len(prompts),), 4.0).log() - 3 / 4
    assert_close(WarmStart(search, hypernet).kl_nats(noise, found), spent + chosen_among_4, rtol=0, atol=1e-4)
