"""What an update takes by part: bytes of the weights, and of the most tensors that are alive, counted and as planned.

The plan (`hn plan`) follows shapes without weights; the count follows the tensors of a real update.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.miniature import make_module, prompts
from benchmarks.pipelines import pipelines
from benchmarks.training_options import training_step
from hn.training.planning.live_memory import LiveMemory
from hn.training.planning.plan import plan_update, weights_by_part

BATCH = 8


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Bytes of each part of each pipeline; `rounds` is of no meaning here."""
    found: dict[str, Any] = {}
    texts = prompts(BATCH)
    meta = torch.device("meta")
    with pipelines() as there:
        for name, (folder, options) in there.items():
            generator = {"pretrained": str(folder), **options}
            module = make_module(device, generator=generator)
            noise = module.generator.sample_noise(BATCH, torch.Generator().manual_seed(0))
            conditioning = module.generator.encode(texts)
            known = [*module.parameters(), *module.buffers(), noise, *conditioning.values()]
            with LiveMemory(known) as memory:
                training_step(module, texts, noise, conditioning)
            with meta:
                module = make_module(meta, generator={**generator, "load_weights": False})
            plan = plan_update(module, BATCH)
            parts = weights_by_part(module, {})
            found |= {f"{name}, {part}": {"bytes": size, "planned": plan.weights[part]} for part, size in parts.items()}
            found[f"{name}, optimiser"] = {"planned": plan.optimizer}
            found[f"{name}, update of {BATCH} images"] = {"bytes": memory.peak, "planned": plan.update.peak}
    return found
