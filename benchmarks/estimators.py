"""Estimators of the reward's gradient, and the compact hypernetworks that they train, on the miniature.

- How noisy the score-function estimate is: K times its variance over its squared mean, for subspaces, sigmas and K. K
  cancels in theory, for every antithetic pair is an estimate of its own.
- Bytes alive at most in a training step, over those of generating and scoring as many images without gradients.
- Share of a forward-only step's time that is not spent in generator, decoder and rewards.
- Seconds of f over those of the base's images.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.miniature import make_module, prompts
from benchmarks.timing import as_entries, seconds_of, side_by_side
from benchmarks.training_options import training_step
from hn.generators.noise import training_streams
from hn.generators.subspaces import LowFrequency
from hn.hypernets import Hypernet
from hn.hypernets.conv import ConvHypernet
from hn.hypernets.subspace import SubspaceHypernet
from hn.rewards.ensemble import RewardOutput
from hn.training.estimators import ScoredBatch, ScoreFunction
from hn.training.module import NoiseHypernetModule
from hn.training.planning.live_memory import LiveMemory

SETTINGS = [(n, sigma, 4) for n in (2, 3, 4, 5, 6) for sigma in (0.4, 0.6, 0.8)] + [(2, 0.8, 2), (2, 0.8, 8)]
"""Frequencies in each direction, sigma and K, of which the variance is measured."""
VARIANCE_BATCH, EVALUATIONS, GROUPS = 8, 512, 8  # prompts; images of each of them in all; groups of these
MEMORY_IMAGES = 48
STEP_BATCH, SAMPLES = 48, 4
INFERENCE_BATCH = 16
COMPACT: dict[str, Callable[[], Hypernet]] = {
    "conv": ConvHypernet,
    "conv, 2 self-attentions": lambda: ConvHypernet(self_attentions=2),
    "conv, checkpointing": lambda: ConvHypernet(gradient_checkpointing=True),
    "subspace": SubspaceHypernet,
}


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Numbers of all four kinds; `rounds` is of no meaning for variances and bytes."""
    return {
        "batches": f"variance {VARIANCE_BATCH}, memory {MEMORY_IMAGES} images, step {STEP_BATCH}, f {INFERENCE_BATCH}",
        **measure_inference(device, rounds),
        **measure_memory(device),
        **measure_step(device, rounds),
        **measure_variance(device),
    }


def measure_variance(device: torch.device) -> dict[str, dict[str, Any]]:
    """Variances of the estimate at x0 itself, where f = 0, by setting."""
    module = make_module(device)
    found = {}
    for frequencies, sigma, samples in SETTINGS:
        module.estimator = ScoreFunction(LowFrequency(frequencies), samples, sigma)
        module.estimator.build(module.generator)
        name = f"gradient, {frequencies} x {frequencies} frequencies, sigma {sigma}, K {samples}"
        found[name] = relative_variance(draw_estimates(module, EVALUATIONS // samples), samples)
    return found


def draw_estimates(module: NoiseHypernetModule, draws: int) -> Tensor:
    """Estimates [draws, B, *noise_shape] of the reward's gradient, all at the same noise and prompts."""
    texts = prompts(VARIANCE_BATCH)
    conditioning = module.generator.encode(texts)
    modulated = module.generator.sample_noise(len(texts), torch.Generator().manual_seed(0)).requires_grad_()
    estimates = []
    for draw in range(draws):
        streams = training_streams(len(texts), seed=0, step=draw)
        total = module.scores(modulated, conditioning, texts, streams).total
        estimates += torch.autograd.grad(total.sum(), modulated)
    return torch.stack(estimates)


def relative_variance(estimates: Tensor, evaluations: int) -> dict[str, float]:
    """Variance for one evaluation over the squared mean, both summed over dimensions and averaged over samples.

    Args:
        estimates: [draws, B, ...], draws a multiple of `GROUPS`.
        evaluations: images that one estimate takes of a sample.

    Returns:
        The ratio ("variance"), the squared mean and its standard error, by jackknife.
    """
    flat = estimates.flatten(2).double()
    variance = flat.var(0).sum(1).mean()
    groups = flat.unflatten(0, (GROUPS, -1)).mean(1)
    left_out = [squared_mean(torch.cat([groups[:each], groups[each + 1 :]])) for each in range(GROUPS)]
    error = math.sqrt((GROUPS - 1) ** 2 / GROUPS) * statistics.stdev(left_out)
    mean = squared_mean(groups)
    return {"variance": float(evaluations * variance / mean), "squared_mean": mean, "squared_mean_error": error}


def squared_mean(groups: Tensor) -> float:
    """Squared norm of the mean, averaged over samples, from means [G, B, D] of groups: the inner products of different
    groups, which noise adds nothing to."""
    products = torch.einsum("gbd,hbd->gh", groups, groups) / groups.shape[1]
    count = len(groups)
    return float((products.sum() - products.trace()) / (count * (count - 1)))


def measure_memory(device: torch.device) -> dict[str, dict[str, Any]]:
    """Bytes alive at most while as many images are made: by inference, and in a training step of each kind."""
    ways: dict[str, tuple[NoiseHypernetModule, int]] = {"LoRA, pathwise": (make_module(device), MEMORY_IMAGES)}
    for name, make in COMPACT.items():
        ways[f"{name}, pathwise"] = make_module(device, hypernet=make()), MEMORY_IMAGES
        estimator = ScoreFunction(LowFrequency(4), SAMPLES)
        module = make_module(device, hypernet=make(), estimator=estimator)
        ways[f"{name}, forward-only"] = module, MEMORY_IMAGES // SAMPLES
    first = ways["LoRA, pathwise"][0]
    score(first, MEMORY_IMAGES)  # what it remembers
    with LiveMemory([*first.parameters(), *first.buffers()]) as memory:
        score(first, MEMORY_IMAGES)
    inference = memory.peak
    found: dict[str, dict[str, Any]] = {"memory, inference": {"peak_bytes": inference, "ratio": 1.0}}
    for name, (module, batch) in ways.items():
        peak = peak_of_step(module, batch)
        found[f"memory, {name}"] = {"peak_bytes": peak, "ratio": peak / inference}
    return found


@torch.no_grad()
def score(module: NoiseHypernetModule, images: int) -> None:
    """Generate and score so many images."""
    texts = prompts(images)
    noise = module.generator.sample_noise(images, torch.Generator().manual_seed(0))
    module.reward(module.generator.generate(noise, module.generator.encode(texts)), texts)


def peak_of_step(module: NoiseHypernetModule, batch: int) -> int:
    """Most bytes alive in a forward and backward pass, the noise's among them."""

    def step() -> None:
        training_step(module, prompts(batch), module.generator.sample_noise(batch, torch.Generator().manual_seed(0)))

    step()  # what it remembers
    with LiveMemory([*module.parameters(), *module.buffers()]) as memory:
        step()
    return memory.peak


class WatchedScoreFunction(ScoreFunction):
    """Knows how long images and their scores took.

    Attributes:
        seconds: in generator, decoder and rewards since it was made.
    """

    seconds = 0.0

    def forward(self, batch: ScoredBatch) -> RewardOutput:
        def score(noise: Tensor, samples: int) -> RewardOutput:
            output: list[RewardOutput] = []
            self.seconds += seconds_of(lambda: output.append(batch.score(noise, samples)), noise.device)
            return output[0]

        return super().forward(replace(batch, score=score))


def measure_step(device: torch.device, rounds: int) -> dict[str, dict[str, Any]]:
    """Share of a forward-only step (forward, backward, optimiser) that is not spent in generator, decoder and rewards;
    the hypernetworks take turns."""
    texts = prompts(STEP_BATCH)
    updates, estimators = {}, {}
    for name, make in COMPACT.items():
        estimators[name] = WatchedScoreFunction(LowFrequency(4), SAMPLES)
        module = make_module(device, hypernet=make(), estimator=estimators[name])
        updates[name] = update_of(module, texts)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in updates}
    for _ in range(rounds + 1):
        for name, update in updates.items():
            estimators[name].seconds = 0.0
            seconds = seconds_of(update, device)
            found[name].append((seconds, 1 - estimators[name].seconds / seconds))
    return {f"step, {name}": summary(rows[1:]) for name, rows in found.items()}  # the first one warms up


def summary(rows: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of seconds and shares, and the range of these."""
    seconds, shares = zip(*rows, strict=True)
    return {
        "seconds": statistics.median(seconds),
        "share_of_the_rest": statistics.median(shares),
        "share_range": (min(shares), max(shares)),
    }


def update_of(module: NoiseHypernetModule, texts: list[str]) -> Callable[[], None]:
    """An update of a module: forward and backward pass, and the optimiser's step."""
    optimizer = module.optimizer_factory([p for p in module.hypernet.parameters() if p.requires_grad])
    noise = module.generator.sample_noise(len(texts), torch.Generator().manual_seed(0))
    return lambda: training_step(module, texts, noise, optimizer=optimizer)


def measure_inference(device: torch.device, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of f of each hypernetwork, over those of the base's images of the same batch."""
    module = make_module(device)
    generator = module.generator
    hypernets: Mapping[str, Hypernet] = {
        "LoRA": module.hypernet,
        **{name: make().build(generator) for name, make in COMPACT.items()},
    }
    conditioning = generator.encode(prompts(INFERENCE_BATCH))
    noise = generator.sample_noise(INFERENCE_BATCH, torch.Generator().manual_seed(0))

    def f_of(hypernet: Hypernet) -> Callable[[], Tensor]:
        return lambda: torch.no_grad()(hypernet)(noise, conditioning)

    ways = {"base": lambda: torch.no_grad()(generator.generate)(noise, conditioning)}
    timings = side_by_side({**ways, **{name: f_of(own) for name, own in hypernets.items()}}, 5 * rounds, device)
    return {f"f, {name}": row for name, row in as_entries(timings).items()}
