"""Parameters and operations of compact hypernetworks at their default sizes, beside LoRA's, for published generators.

Nothing is timed and no weights are made: shapes alone are followed, on the meta device. Operations are those of
matrix products, convolutions and attention for one image, two for each multiplication with addition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full_size_shapes import SHAPES
from hn.generators import DiffusersGenerator, Generator
from hn.generators.base import Conditioning
from hn.hypernets import Hypernet, LoraHypernet
from hn.hypernets.conv import ConvHypernet
from hn.hypernets.subspace import SubspaceHypernet

NETWORKS = {"ConvHypernet": ConvHypernet, "SubspaceHypernet": SubspaceHypernet, "LoraHypernet": LoraHypernet}


def measure(device: torch.device, rounds: int) -> dict[str, Any]:
    """Numbers of each network for each generator, as `sizes_of`."""
    return {f"{name} {network}": sizes for name in SHAPES for network, sizes in sizes_of(name).items()}


def sizes_of(name: str) -> dict[str, dict[str, float]]:
    """Trained parameters, megabytes in float32 and 10^9 operations of f for one image, by the network's class.

    Args:
        name: of a generator, in `SHAPES`.
    """
    shape = SHAPES[name]
    with torch.device("meta"):
        pipe, conditioning = shape.pipeline(), shape.conditioning(1)
        generator = DiffusersGenerator.from_pipeline(pipe, height=shape.side, width=shape.side)
        networks = {network: kind().build(generator) for network, kind in NETWORKS.items()}
    found = {}
    for network, hypernet in networks.items():
        trained = sum(parameter.numel() for parameter in hypernet.parameters() if parameter.requires_grad)
        gflop = operations(generator, hypernet, conditioning) / 1e9
        found[network] = {"parameters": trained, "megabytes": trained * 4 / 1e6, "gflop": gflop}
    return found


@torch.no_grad()
def operations(generator: Generator, hypernet: Hypernet, conditioning: Conditioning) -> int:
    """Operations of f for one image; of LoRA those of the plain backbone, into which it can be merged."""
    noise = torch.empty(1, *generator.noise_shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        if hypernet.extra_nfe:
            generator.first_step(generator.backbone, noise, conditioning)
        else:
            hypernet(noise, {name: tensor.to("meta") for name, tensor in conditioning.items()})
    return counter.get_total_flops()
