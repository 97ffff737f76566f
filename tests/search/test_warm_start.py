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
    with pytest.raises(ValueError, match="BestOfN draws its candidates anew"):
        WarmStart(BestOfN(2))
