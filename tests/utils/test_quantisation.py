"""Generators with int8 weights. Rewards: tests/rewards."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from hn.generators.noise import seeded
from hn.generators.pipeline import DiffusersGenerator
from hn.hypernets import LoraHypernet
from hn.hypernets.conv import ConvHypernet

PROMPTS = ["a red cube", "two blue ball"]


def _int8_layers(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if hasattr(getattr(layer, "weight", None), "qdata")]


@pytest.mark.extras("torchao")
def test_a_generator_keeps_int8_weights_in_its_backbone_alone(tiny_checkpoints: Path) -> None:
    path = str(tiny_checkpoints / "pipeline")
    plain, quantised = DiffusersGenerator(path), DiffusersGenerator(path, quantise="int8")
    assert _int8_layers(quantised.backbone) and not _int8_layers(quantised.pipe.vae)
    noise = plain.sample_noise(2, seeded(0))
    images = [generator.generate(noise, generator.encode(PROMPTS)) for generator in (plain, quantised)]
    assert not torch.equal(*images)
    torch.testing.assert_close(*images, atol=0.05, rtol=0)
    with pytest.raises(ValueError, match="LoRA is trained on the backbone's own weights"):
        LoraHypernet(rank=2).build(quantised)
    ConvHypernet(width=8, blocks=1, heads=1).build(quantised)


@pytest.mark.extras("torchao")
def test_a_generator_without_weights_is_quantised_too(tiny_checkpoints: Path) -> None:
    assert _int8_layers(DiffusersGenerator.build_on_meta(str(tiny_checkpoints / "pipeline"), quantise="int8").backbone)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is installed")
def test_a_quantised_generator_says_what_it_needs(tiny_checkpoints: Path) -> None:
    with pytest.raises(ImportError, match="quantise needs torchao"):
        DiffusersGenerator(str(tiny_checkpoints / "pipeline"), quantise="int8")
