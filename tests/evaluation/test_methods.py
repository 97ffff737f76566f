import math

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from hn.evaluation.methods import Sampled, Searched, TrainedMethod
from hn.evaluation.peak_memory import PeakMemory
from hn.evaluation.samples import Samples
from hn.hypernets import LoraFinetune, LoraHypernet
from hn.rewards import RednessReward, RewardEnsemble
from hn.search import BestOfN, Budget, Reno, WarmStart, WhiteNoiseProjection, ZeroOrderSearch

PROMPTS = ["a red ball", "two cube", "a green cube"]


@pytest.fixture
def samples(generator):
    return Samples.of_prompts(generator, PROMPTS, images_per_prompt=2, seed=3)


@pytest.fixture
def reward():
    return RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0})


@pytest.fixture
def hypernet(generator):
    """A hypernetwork whose f is not 0."""
    hypernet = LoraHypernet(rank=2).build(generator)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    return hypernet


def part(samples: Samples, rows: slice) -> Samples:
    """Some of the samples."""
    return Samples(
        samples.prompts[rows], samples.metadata[rows], samples.index[rows], samples.copy[rows], samples.seed,
        samples.noise[rows],
    )  # fmt: skip


@pytest.mark.exact
def test_base_is_the_generator_at_no_cost(generator, samples):
    method = Sampled("base", generator)
    output = method(samples)
    expected = generator.generate(samples.noise, generator.encode(samples.prompts))
    assert torch.equal(output.images, expected)
    assert torch.equal(output.kl_nats, torch.zeros(6))
    assert output.seconds > 0
    assert (output.peak_memory_bytes is None) == (PeakMemory(samples.noise.device).bytes() is None)
    assert (method.name, method.nfe) == ("base", 1)
    assert Sampled("base", generator, steps=4).nfe == 4


def test_a_fine_tune_has_no_cost_in_noise_space(generator, samples):
    method = TrainedMethod(LoraFinetune(rank=2).build(generator))
    output = method(samples)
    assert torch.equal(output.images, generator.generate(samples.noise, generator.encode(samples.prompts)))
    assert output.kl_nats is None
    assert (method.name, method.nfe) == ("finetune", 1)


@pytest.mark.exact
def test_modulated_is_the_generator_on_modulated_noise(generator, samples, hypernet):
    method = TrainedMethod(hypernet, steps=2)
    output = method(samples)
    conditioning = generator.encode(samples.prompts)
    with torch.no_grad():
        f = hypernet(samples.noise, conditioning)
        assert torch.equal(output.images, generator.generate(samples.noise + f, conditioning, 2))
    torch.testing.assert_close(output.kl_nats, 0.5 * f.square().flatten(1).sum(1))
    assert float(output.kl_nats.min()) > 0
    assert method.nfe == 3
    assert not output.images.requires_grad


def test_searches_tell_their_cost(generator, samples, reward):
    base = reward.total(Sampled("base", generator)(samples).images, samples.prompts)
    best_of = Searched("best_of_4", generator, BestOfN(n=4), reward)
    assert math.isnan(best_of.nfe)
    output = best_of(samples)
    assert best_of.nfe == 4
    torch.testing.assert_close(output.kl_nats, torch.full((6,), math.log(4) - 3 / 4))
    assert (reward.total(output.images, samples.prompts) >= base).all()
    reno = Searched("reno", generator, Reno(iterations=3, steps=2), reward)
    assert reno(samples).kl_nats.shape == (6,)
    assert reno.nfe == 6


def test_one_run_of_a_search_answers_for_smaller_ones(generator, samples, reward):
    output = Searched("best_of_6", generator, BestOfN(n=6, report_at=[2]), reward)(samples)
    fewer = Searched("best_of_2", generator, BestOfN(n=2), reward)(samples)
    assert (output.nfe, fewer.nfe, list(output.earlier)) == (6, 2, [2])
    early = output.earlier[2]
    torch.testing.assert_close(early.images, fewer.images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(early.kl_nats, fewer.kl_nats)
    assert early.nfe == 2
    assert 0 < early.seconds < output.seconds


def test_prompts_are_encoded_once_and_searches_that_do_not_fit_are_refused(generator, samples, reward, monkeypatch):
    calls, encode = [], generator.encode
    monkeypatch.setattr(generator, "encode", lambda prompts: calls.append(len(prompts)) or encode(prompts))
    Searched("reno", generator, Reno(iterations=2), reward)(samples)
    assert calls == [6]
    with pytest.raises(ValueError, match=r"The search reno cannot run: max_nfe \(2\) is too small: one image needs"):
        Searched("reno", generator, Reno(steps=3, budget=Budget(max_nfe=2)), reward)
    with pytest.raises(ValueError, match="multiple of 14 numbers"):
        Searched("reno", generator, Reno(precondition=WhiteNoiseProjection(7)), reward)


@pytest.mark.parametrize("kind", ["base", "hypernetwork", "search"])
def test_an_image_does_not_depend_on_its_batch(make_generator, reward, kind):
    """Not even with a scheduler that draws noise between steps, or a search that draws candidates."""
    generator = make_generator(steps=3)
    config = {**generator.pipe.scheduler.config, "rescale_betas_zero_snr": False}
    generator.pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(config)
    method = {
        "base": lambda: Sampled("base", generator),
        "hypernetwork": lambda: TrainedMethod(LoraHypernet(rank=2).build(generator)),
        "search": lambda: Searched("best_of_3", generator, BestOfN(n=3, steps=3), reward),
    }[kind]()
    samples = Samples.of_prompts(generator, PROMPTS, images_per_prompt=2, seed=3)
    together = method(samples).images
    for rows in (slice(0, 1), slice(3, 5)):
        torch.testing.assert_close(method(part(samples, rows)).images, together[rows], rtol=1e-4, atol=1e-5)


def test_encoding_is_not_on_the_clock(generator, samples, monkeypatch):
    events = []
    encode, run = generator.encode, Sampled.run
    monkeypatch.setattr(generator, "encode", lambda prompts: (events.append("encode"), encode(prompts))[1])
    monkeypatch.setattr(Sampled, "run", lambda *args: (events.append("run"), run(*args))[1])
    monkeypatch.setattr("hn.evaluation.methods._now", lambda tensor: events.append("clock") or float(len(events)))
    Sampled("base", generator)(samples)
    assert events == ["encode", "clock", "run", "clock"]


def test_what_a_search_is_expected_to_take_is_known_beforehand(generator, reward, hypernet):
    searches = {
        "best_of_3": (BestOfN(n=3), 3),
        "reno_2": (Reno(iterations=2, steps=2), 4),
        "zero_order_7": (ZeroOrderSearch(iterations=2, neighbours=3), 7),
        "warm": (WarmStart(Reno(iterations=2), hypernet), 2),
    }
    for name, (search, expected) in searches.items():
        assert Searched(name, generator, search, reward).expected_nfe == expected
    assert TrainedMethod(hypernet, steps=4).expected_nfe == 5


def test_a_search_hands_on_its_trace(generator, reward, samples):
    output = Searched("best_of_3", generator, BestOfN(n=3), reward)(samples)
    assert [point["nfe"] for point in output.trace] == [1, 2, 3]
    base = Sampled("base", generator)(samples)
    assert base.trace == ()
