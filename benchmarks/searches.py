"""ReNO for eight prompts at once against one prompt after the other, on the miniature."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.miniature import make_module, prompts
from benchmarks.timing import as_entries, side_by_side
from hn.search import Reno

PROMPTS, ITERATIONS = 8, 10


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Timings of both."""
    module = make_module(device)
    texts = prompts(PROMPTS)
    noise = module.generator.sample_noise(PROMPTS, torch.Generator().manual_seed(0))
    search = Reno(ITERATIONS, batch_size=PROMPTS)

    def one_by_one() -> None:
        for i in range(PROMPTS):
            search(module.generator, module.reward.total, texts[i : i + 1], noise[i : i + 1])

    def batched() -> None:
        search(module.generator, module.reward.total, texts, noise)

    timings = side_by_side({"one_by_one": one_by_one, "batched": batched}, rounds, device)
    return {"prompts": PROMPTS, "iterations": ITERATIONS, **as_entries(timings)}
