"""One image by the base, the hypernetwork, Best-of-N and ReNO: seconds and passes of the backbone.

The hypernetwork should cost one pass of the backbone more than the base and nothing else:
(2 backbone + decoder) / (1 backbone + decoder), measured in the same turns.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.miniature import make_module, prompts
from benchmarks.pipelines import pipelines
from benchmarks.timing import as_entries, side_by_side
from hn.search import BestOfN, Reno
from hn.training.module import NoiseHypernetModule

BATCHES = {"miniature": 32, "sana": 8}


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Timings of a batch of each pipeline, the expected ratio and the measured ones."""
    found: dict[str, Any] = {}
    with pipelines() as there:
        for name, (folder, options) in there.items():
            module = make_module(device, generator={"pretrained": str(folder), **options})
            own = measure_module(module, BATCHES[name], device, rounds)
            found |= {f"{name}, {key}": value for key, value in own.items()}
    return found


def measure_module(module: NoiseHypernetModule, batch: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Numbers of one generator with its hypernetwork and reward."""
    generator, hypernet = module.generator, module.hypernet
    merged_hypernet = hypernet.merged()
    texts = prompts(batch)
    conditioning = generator.encode(texts)  # known, as after the first image of a prompt
    noise = generator.sample_noise(batch, torch.Generator().manual_seed(0))
    latents = torch.no_grad()(generator.denoise)(noise, conditioning)

    @torch.no_grad()
    def base() -> None:
        generator.generate(noise, conditioning)

    @torch.no_grad()
    def modulated() -> None:
        generator.generate(hypernet.modulate(noise, conditioning), conditioning)

    @torch.no_grad()
    def merged() -> None:
        generator.generate(merged_hypernet.modulate(noise, conditioning), conditioning)

    @torch.no_grad()
    def backbone() -> None:
        generator.first_step(generator.backbone, noise, conditioning)

    @torch.no_grad()
    def decoder() -> None:
        generator.decode(latents)

    quick = side_by_side(
        {"base": base, "hypernetwork": modulated, "merged": merged, "backbone": backbone, "decoder": decoder},
        5 * rounds,
        device,
    )
    searches = {"best_of_50": BestOfN(50, batch_size=batch), "reno_50": Reno(50, batch_size=batch)}
    slow = side_by_side(
        {
            "base": base,
            **{
                name: lambda search=search: search(generator, module.reward.total, texts, noise)
                for name, search in searches.items()
            },
        },
        1,
        device,
    )
    expected = 1 + quick["backbone"].seconds / (quick["backbone"].seconds + quick["decoder"].seconds)
    nfe = {"base": 1, "hypernetwork": 2, "merged": 2, "best_of_50": 50, "reno_50": 50}
    timings = as_entries(quick) | {name: entry for name, entry in as_entries(slow).items() if name != "base"}
    for name, passes in nfe.items():
        timings[name]["nfe"] = passes
    return {
        "batch": batch,
        **timings,
        "ratio_expected": expected,
        **{f"ratio{suffix}": quick[name].ratio for name, suffix in (("hypernetwork", ""), ("merged", "_merged"))},
    }
