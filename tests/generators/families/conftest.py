"""Numbers of the published implementation on tiny components, and the generators that have to give the same."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from safetensors.torch import load_file
from torch import Tensor

from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet


@dataclass(frozen=True)
class Published:
    """What the published implementation computed, and our generator on the same components.

    Attributes:
        config: of components and LoRA.
        tensors: inputs and outputs by name.
        lora: its weights.
        generator: ours.
        conditioning: of the prompts.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    lora: dict[str, Tensor]
    generator: DiffusersGenerator
    conditioning: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def hypernet(self) -> LoraHypernet:
        """Ours, with the published LoRA."""
        settings = self.config["lora"]
        hypernet = LoraHypernet(rank=settings["r"], alpha=settings["lora_alpha"]).build(self.generator)
        lora = {name.replace(".weight", ".default.weight"): tensor for name, tensor in self.lora.items()}
        hypernet.load_trainable_state_dict({f"backbone.{name}": tensor for name, tensor in lora.items()})
        return hypernet


def read(folder: Path, pipe: DiffusionPipeline, outputs: str, lora: str, embeds: tuple[str, ...]) -> Published:
    config = json.loads((folder / "config.json").read_text())
    tensors = {**load_file(folder / "inputs.safetensors"), **load_file(folder / outputs)}
    generator = DiffusersGenerator.from_pipeline(pipe, height=32, width=32)
    return Published(config, tensors, load_file(folder / lora), generator, {name: tensors[name] for name in embeds})


@pytest.fixture(scope="module")
def flux(fixtures: Path) -> Published:
    folder = fixtures / "flux"
    config = json.loads((folder / "config.json").read_text())
    transformer, vae = FluxTransformer2DModel(**config["transformer"]), AutoencoderKL(**config["vae"])
    transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
    decoder = load_file(folder / "vae_decoder.safetensors")
    vae.decoder.load_state_dict({name.removeprefix("decoder."): tensor for name, tensor in decoder.items()})
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**config["scheduler"]),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    embeds = ("prompt_embeds", "pooled_prompt_embeds")
    return read(folder, pipe, "outputs.safetensors", "lora.safetensors", embeds)


@pytest.fixture(scope="module")
def sana(fixtures: Path) -> Published:
    folder = fixtures / "sana"
    config = json.loads((folder / "config.json").read_text())
    transformer, vae = SanaTransformer2DModel(**config["transformer"]), AutoencoderDC(**config["vae"])
    transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
    vae.load_state_dict(load_file(folder / "vae.safetensors"))
    pipe = SanaSprintPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=SCMScheduler(**config["scheduler"]),
    )
    embeds = ("prompt_embeds", "prompt_attention_mask")
    return read(folder, pipe, "outputs_nonzero.safetensors", "lora_nonzero_init.safetensors", embeds)
