import pytest
import torch

from benchmarks.full_size_shapes import SHAPES
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet

# Millions of parameters as published: backbone, autoencoder; of a LoRA of rank 128 as the published adapters have.
PUBLISHED = {
    "sd_turbo": (865.9, 83.7),
    "sana_sprint": (593.5, 312.3),
    "flux_schnell": (11891.2, 83.8),
    "sdxl": (2567.5, 83.7),
    "z_image": (6154.9, 83.8),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_the_published_ones(name: str) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        pipe = shape.pipeline()
        conditioning = shape.conditioning(2)
    generator = DiffusersGenerator.from_pipeline(pipe, height=shape.side, width=shape.side)
    networks = (generator.backbone, pipe.vae)
    counts = [round(sum(p.numel() for p in network.parameters()) / 1e6, 1) for network in networks]
    assert tuple(counts) == PUBLISHED[name]
    hypernet = LoraHypernet(rank=4).build(generator)
    noise = torch.empty(2, *generator.noise_shape, device="meta")
    assert hypernet(noise, conditioning).shape == noise.shape  # so the conditioning has the backbone's sizes
