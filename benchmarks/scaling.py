"""Seconds of a training step of the miniature by batch and by resolution."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.miniature import make_module, prompts
from benchmarks.timing import side_by_side
from benchmarks.training_options import training_step

BATCHES, SIDES = (1, 4, 16, 64), (32, 64, 96)


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Seconds of an image for each batch at 32 pixels, and for each resolution at batch 4."""
    found: dict[str, Any] = {}
    module = make_module(device)
    noise = module.generator.sample_noise(max(BATCHES), torch.Generator().manual_seed(0))
    texts = prompts(max(BATCHES))
    steps = {n: lambda n=n: training_step(module, texts[:n], noise[:n]) for n in BATCHES}
    for n, timing in side_by_side(steps, rounds, device).items():
        found[f"batch_{n}"] = {"seconds": timing.seconds, "seconds_per_image": timing.seconds / n}
    modules = {side: make_module(device, generator={"height": side, "width": side}) for side in SIDES}
    noises = {side: m.generator.sample_noise(4, torch.Generator().manual_seed(0)) for side, m in modules.items()}
    steps = {side: lambda side=side: training_step(modules[side], texts[:4], noises[side]) for side in SIDES}
    for side, timing in side_by_side(steps, rounds, device).items():
        found[f"pixels_{side}"] = {"seconds": timing.seconds, "seconds_per_image": timing.seconds / 4}
    return found
