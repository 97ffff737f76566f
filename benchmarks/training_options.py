"""One training step with each option against the plain one: seconds, and bytes alive at the peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.miniature import make_module, prompts
from benchmarks.pipelines import pipelines
from benchmarks.timing import side_by_side
from hn.generators.base import Conditioning
from hn.generators.noise import training_streams
from hn.objective import noise_hypernetwork_loss
from hn.training.module import NoiseHypernetModule
from hn.training.planning.live_memory import LiveMemory

BATCHES = {"miniature": 32, "sana": 8}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "score_batch_size_2": {"score_batch_size": 2},
    "score_batch_size_8": {"score_batch_size": 8},
    "checkpointing_of_f": {"hypernet": {"gradient_checkpointing": True}},
    "checkpointing_of_generator": {"generator": {"gradient_checkpointing": True}},
    "checkpointing_of_reward": {"reward": {"gradient_checkpointing": True}},
    "channels_last": {"generator": {"channels_last": True}},
    "prompts_encoded_anew": {"generator": {"prompt_cache_size": 0}},
}


def training_step(
    module: NoiseHypernetModule,
    texts: list[str],
    noise: torch.Tensor,
    conditioning: Conditioning | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Forward and backward pass of a batch, and the optimiser's step if there is one; prompts are encoded if there is
    no conditioning."""
    conditioning = module.generator.encode(texts) if conditioning is None else conditioning
    f = module.hypernet(noise, conditioning)
    scores = module.scores(noise + f, conditioning, texts, training_streams(len(texts), seed=0, step=0))
    noise_hypernetwork_loss(scores.total, f, module.regulariser, module.reward_weight).loss.backward()
    if optimizer is not None:
        optimizer.step()
    module.zero_grad()


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Timings and peaks of all ways, for each pipeline."""
    found: dict[str, Any] = {}
    with pipelines() as there:
        for name, (folder, options) in there.items():
            generator = {"pretrained": str(folder), **options}
            ways = measure_generator(generator, BATCHES[name], device, rounds)
            found |= {f"{name}, {way}": row for way, row in ways.items()}
    return {"batches": str(BATCHES), **found}


def measure_generator(
    generator: Mapping[str, Any], batch: int, device: torch.device, rounds: int
) -> dict[str, dict[str, Any]]:
    """Numbers of one generator, by way."""
    texts = prompts(batch)
    modules = {
        name: make_module(device, **{**options, "generator": {**generator, **options.get("generator", {})}})
        for name, options in WAYS.items()
    }
    noise = modules["plain"].generator.sample_noise(batch, torch.Generator().manual_seed(0))
    steps = {name: lambda module=module: training_step(module, texts, noise) for name, module in modules.items()}
    timings = side_by_side(steps, rounds, device)
    found: dict[str, dict[str, Any]] = {}
    for name, timing in timings.items():
        with LiveMemory([*modules[name].parameters(), *modules[name].buffers(), noise]) as memory:
            steps[name]()
        found[name] = {"seconds": timing.seconds, "ratio": timing.ratio, "ratio_ci95": timing.ratio_ci95}
        found[name]["peak_bytes"] = memory.peak
    return found
