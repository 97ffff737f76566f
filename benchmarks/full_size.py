"""Training steps and images of SD-Turbo, SANA-Sprint and FLUX.1-schnell at full size, in bfloat16, on a CUDA GPU.

Weights are random, the reward is four CLIP ViT-H-14 towers (SANA and SD-Turbo) or one (FLUX). For each generator: the
largest batch that fits of 1, 2, 4, ... (decoder and rewards four images at a time), seconds of a step, peak memory,
and the seconds of the hypernetwork's images against the base's.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size_shapes import SHAPES, randomise, write_vit_h
from benchmarks.timing import as_entries, side_by_side
from benchmarks.training_options import training_step
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet
from hn.rewards import ClipReward, RewardEnsemble
from hn.training.module import NoiseHypernetModule

REWARDS = {"sd_turbo": 4, "sana_sprint": 4, "flux_schnell": 1}


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Numbers of each generator.

    Raises:
        ValueError: without a CUDA GPU.
    """
    if device.type != "cuda":
        raise ValueError("The full-size benchmark needs a CUDA GPU.")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        towers = write_vit_h(Path(folder))
        for name in REWARDS:
            found[name] = measure_generator(name, towers, device, rounds)
            gc.collect()
            torch.cuda.empty_cache()
    return found


def make_module(name: str, towers: Path, device: torch.device) -> NoiseHypernetModule:
    """A module of the published size, its weights random, on the device.

    Args:
        name: in `SHAPES`.
        towers: folder of a CLIPModel.
        device: where it computes.
    """
    shape = SHAPES[name]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            pipe = shape.pipeline()
    finally:
        torch.set_default_dtype(default)
    for network in pipe.components.values():
        if isinstance(network, torch.nn.Module):
            randomise(network)
    generator = DiffusersGenerator.from_pipeline(pipe, height=shape.side, width=shape.side, gradient_checkpointing=True)
    rewards = {
        f"clip_{i}": ClipReward(str(towers), dtype="bfloat16", scale="percent", gradient_checkpointing=True)
        for i in range(REWARDS[name])
    }
    ensemble = RewardEnsemble(rewards, dict.fromkeys(rewards, 1.0))
    hypernet = LoraHypernet(rank=128, gradient_checkpointing=True)
    return NoiseHypernetModule(generator, hypernet, ensemble, score_batch_size=4).to(device)


def measure_generator(name: str, towers: Path, device: torch.device, rounds: int) -> dict[str, Any]:
    """Numbers of one generator; see the module's text."""
    module = make_module(name, towers, device)

    def step(batch: int) -> None:
        noise = module.generator.sample_noise(batch)
        with device:
            conditioning = SHAPES[name].conditioning(batch)
        conditioning = {key: value.to(torch.bfloat16) for key, value in conditioning.items()}
        with torch.autocast("cuda", torch.bfloat16):
            training_step(module, ["a photo of a cat"] * batch, noise, conditioning)

    found: dict[str, Any] = {"batches": {}}
    batch = 1
    while True:
        torch.cuda.reset_peak_memory_stats()
        try:
            timing = side_by_side({"step": lambda batch=batch: step(batch)}, rounds, device)["step"]
        except torch.OutOfMemoryError:
            break
        peak = torch.cuda.max_memory_allocated()
        found["batches"][batch] = {"seconds": timing.seconds, "seconds_per_image": timing.seconds / batch, "peak": peak}
        batch *= 2
    torch.cuda.empty_cache()

    noise = module.generator.sample_noise(4)
    with device:
        conditioning = {k: v.to(torch.bfloat16) for k, v in SHAPES[name].conditioning(4).items()}

    @torch.no_grad()
    def base() -> None:
        module.generator.generate(noise, conditioning)

    @torch.no_grad()
    def modulated() -> None:
        module.generator.generate(module.hypernet.modulate(noise, conditioning), conditioning)

    found["images"] = as_entries(side_by_side({"base": base, "hypernetwork": modulated}, 3 * rounds, device))
    return found
