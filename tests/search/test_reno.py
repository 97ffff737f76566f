import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hn.rewards.preprocess import ClipPreprocess
from hn.search import Reno
from hn.search.reno import norm_regulariser
from tests import published

FIXTURES = Path(__file__).parents[1] / "fixtures"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def literal_reno(
    generator, reward, prompt, noise, iterations, learning_rate=5.0, momentum=0.9, nesterov=True, clip=0.1
):
    """One prompt, with torch's own optimiser and clipping. Returns the noises and rewards of all iterations."""
    noise = noise.clone().requires_grad_()
    optimiser = torch.optim.SGD([noise], lr=learning_rate, momentum=momentum, nesterov=nesterov)
    noises, rewards = [], []
    for _ in range(iterations):
        score = reward(generator.generate(noise, generator.encode([prompt]), 1), [prompt])
        noises.append(noise.detach().clone())
        rewards.append(score.item())
        norm = noise.norm()
        loss = -score + 0.01 * (0.5 * norm**2 - (noise.numel() - 1) * norm.log())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([noise], clip)
        optimiser.step()
    return noises, rewards


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "nesterov": False}, {"learning_rate": 0.5}])
def test_equals_torch_s_optimiser_run_for_each_prompt(generator, reward, prompts, noise, options):
    iterations = 12
    result = Reno(iterations, **options)(generator, reward, prompts, noise)
    for i, prompt in enumerate(prompts):
        noises, rewards = literal_reno(generator, reward, prompt, noise[[i]], iterations, **options)
        best = max(range(iterations), key=lambda k: (rewards[k], -k))
        assert best > 0  # the search did something
        assert_close(result.noises[[i]], noises[best], rtol=0, atol=1e-5)
        assert result.rewards[i].item() == pytest.approx(rewards[best], abs=1e-6)
        so_far = [max(rewards[: k + 1]) for k in range(iterations)]
        assert [point["best_reward"][i].item() for point in result.trace] == pytest.approx(so_far, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("batch_size", [3, 8])
@pytest.mark.parametrize("given", [True, False])
def test_a_batch_equals_single_runs(generator, reward, prompts, noise, steps, batch_size, given):
    search = Reno(iterations=10, steps=steps, batch_size=batch_size)
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
    assert max(generator.generated) == batch_size


def test_the_kept_image_belongs_to_the_kept_noise_and_reward(generator, reward, prompts, noise):
    result = Reno(iterations=6)(generator, reward, prompts, noise)
    assert_close(result.images, generator.generate(result.noises, generator.encode(prompts), 1))
    assert_close(result.rewards, reward(result.images, prompts))
    assert not result.images.requires_grad
    assert not result.noises.requires_grad


def test_trace_counts_the_budget_of_a_prompt(generator, reward, prompts, noise):
    result = Reno(iterations=4, steps=2, batch_size=3)(generator, reward, prompts, noise)
    assert [point["nfe"] for point in result.trace] == [2, 4, 6, 8]
    assert [point["reward_calls"] for point in result.trace] == [1, 2, 3, 4]
    seconds = [point["seconds"] for point in result.trace]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert torch.equal(result.trace[-1]["best_reward"], result.rewards)
    assert generator.generated == [3] * 4 + [3] * 4 + [2] * 4


def test_of_equal_rewards_the_first_is_kept(generator, prompts, noise):
    def constant(images, prompts):
        return images.mean(dim=(1, 2, 3)) * 0 + 1

    assert torch.equal(Reno(iterations=5)(generator, constant, prompts, noise).noises, noise)


def test_a_prompt_that_becomes_nan_keeps_its_best_and_leaves_the_others_alone(generator, reward, prompts, noise):
    calls = []

    def breaks(images, prompts):
        calls.append(len(prompts))
        factors = torch.ones(len(prompts))
        factors[2] = torch.nan if len(calls) > 3 else 1
        return factors * reward(images, prompts)

    broken, whole = Reno(iterations=8)(generator, breaks, prompts, noise), Reno(8)(generator, reward, prompts, noise)
    others = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(broken.noises[others], whole.noises[others])
    assert_close(broken.rewards[2], whole.trace[2]["best_reward"][2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.exact
def test_works_where_gradients_are_off(generator, reward, prompts, noise, mode):
    expected = Reno(iterations=3)(generator, reward, prompts, noise)
    with mode():
        result = Reno(iterations=3)(generator, reward, prompts, noise.clone())
    assert torch.equal(result.noises, expected.noises)


def test_regulariser_is_computed_in_float32_and_least_on_the_sphere():
    noises = torch.full((1, 4, 64, 64), 2.0, dtype=torch.float16)  # |x|^2 = 65536 overflows float16
    assert norm_regulariser(noises).item() == pytest.approx(65536 / 2 - 16383 * torch.tensor(256.0).log().item())
    x = torch.randn(1, 10, dtype=torch.float64)
    x = (x / x.norm() * 3).requires_grad_()  # |x|^2 = d - 1
    (gradient,) = torch.autograd.grad(norm_regulariser(x).sum(), x)
    assert_close(gradient, torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"learning_rate": 0},
        {"momentum": 1},
        {"gradient_clip": 0},
        {"regulariser_weight": -1},
        {"steps": 0},
        {"batch_size": 0},
    ],
)
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Reno(**options)


def test_bad_input_is_named(generator, reward, prompts, noise):
    with pytest.raises(ValueError, match="list of one or more prompts"):
        Reno()(generator, reward, "a prompt")
    with pytest.raises(ValueError, match=r"noise for 8 prompts must be \[8, 2, 3, 3\]"):
        Reno()(generator, reward, prompts, noise[:3])
    with pytest.raises(ValueError, match="one score per image"):
        Reno()(generator, lambda images, prompts: images.mean(), prompts, noise)


def test_equals_the_published_implementation():
    inputs = load_file(FIXTURES / "reno" / "inputs.safetensors")
    expected = load_file(FIXTURES / "reno" / "outputs.safetensors")
    metrics = json.loads((FIXTURES / "reno" / "metrics.json").read_text())["default_redness"]
    generator = published.sd_turbo()
    generator.encode = lambda prompts: {"prompt_embeds": inputs["prompt_embeds"].expand(len(prompts), -1, -1)}
    preprocess = ClipPreprocess(224, CLIP_MEAN, CLIP_STD)
    visited, losses = [], []

    def redness(images, prompts):  # of the normalised 224 x 224 image, as the published loss has it
        red, green, blue = preprocess(images).mean(dim=(2, 3)).unbind(dim=1)
        losses.append(((green + blue) / 2 - red)[0].item())
        return red - (green + blue) / 2

    generate = generator.generate
    generator.generate = lambda noise, *rest: visited.append(noise.detach().clone()) or generate(noise, *rest)

    result = Reno(iterations=10)(generator, redness, ["a prompt"], inputs["x0"])

    assert losses == pytest.approx([row["total"] for row in metrics["per_iteration"]], rel=1e-5)
    assert_close(torch.cat(visited), expected["default_redness.latents_per_iteration"], rtol=0, atol=1e-4)
    norms = [row["norm"] for row in metrics["per_iteration"]]
    assert torch.cat(visited).flatten(1).norm(dim=1).tolist() == pytest.approx(norms, rel=1e-5)
    assert [0.01 * norm_regulariser(noise).item() for noise in visited] == pytest.approx(
        [row["regularization"] for row in metrics["per_iteration"]], rel=1e-5
    )
    assert losses.index(min(losses)) == metrics["best_iteration"]
    assert_close(result.noises, expected["default_redness.best_latents"], rtol=0, atol=1e-4)
    assert_close(result.images, expected["default_redness.best_image"], rtol=0, atol=2e-5)
    assert result.rewards.item() == pytest.approx(-metrics["best_rewards"]["total"], rel=1e-5)
