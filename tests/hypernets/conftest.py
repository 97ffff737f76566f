"""A tiny SANA-Sprint with the weights of the parity fixtures, and what the published implementation made of it."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC, SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler
from safetensors.torch import load_file
from torch import Tensor, nn

from hn.generators import Conditioning, Generator


class SanaGenerator(Generator):
    """The pipeline's own sampler, and f as published: unscaled noise, timestep 1, guidance 4.5 x its scale."""

    name = "tiny-sana"
    revision = None
    noise_shape = (4, 8, 8)
    last_layer = "proj_out"
    steps = 1

    def __init__(self, pipe: SanaSprintPipeline):
        super().__init__()
        pipe.set_progress_bar_config(disable=True)
        self.pipe = pipe
        self.components = nn.ModuleList([pipe.transformer, pipe.vae])
        self.freeze()

    @property
    def backbone(self) -> nn.Module:
        return self.components[0]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        raise NotImplementedError("the fixtures hold prompt embeddings")

    def generate(self, noise: Tensor, conditioning: Conditioning, steps=None, rng=None) -> Tensor:
        latents = inspect.unwrap(type(self.pipe).__call__)(
            self.pipe,
            latents=noise,
            num_inference_steps=steps or self.steps,
            intermediate_timesteps=None,
            height=32,
            width=32,
            generator=rng,
            use_resolution_binning=False,
            output_type="latent",
            return_dict=False,
            **conditioning,
        )[0]
        images = self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor, return_dict=False)[0]
        return (images / 2 + 0.5).clamp(0, 1)

    def first_step(self, backbone: nn.Module, noise: Tensor, conditioning: Conditioning) -> Tensor:
        return backbone(
            noise.to(self.dtype),
            encoder_hidden_states=conditioning["prompt_embeds"].to(self.dtype),
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            timestep=noise.new_ones(len(noise)),
            guidance=noise.new_full((len(noise),), 4.5 * backbone.config.guidance_embeds_scale),
            return_dict=False,
        )[0]


@pytest.fixture(scope="session")
def make_sana(fixtures: Path) -> Callable[..., SanaGenerator]:
    """Builds the tiny SANA-Sprint of the fixtures, its transformer in the data type given."""
    folder = fixtures / "sana"
    config = json.loads((folder / "config.json").read_text())

    def make(dtype: torch.dtype = torch.float32) -> SanaGenerator:
        transformer, vae = SanaTransformer2DModel(**config["transformer"]), AutoencoderDC(**config["vae"])
        transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
        vae.load_state_dict(load_file(folder / "vae.safetensors"))
        pipe = SanaSprintPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=vae,
            transformer=transformer.to(dtype),
            scheduler=SCMScheduler(**config["scheduler"]),
        )
        return SanaGenerator(pipe)

    return make


@pytest.fixture(scope="session")
def sana(make_sana: Callable[..., SanaGenerator]) -> SanaGenerator:
    """The tiny SANA-Sprint in float32, shared: tests leave it as it is."""
    return make_sana()


@pytest.fixture(scope="session")
def sana_inputs(fixtures: Path) -> tuple[Tensor, Conditioning]:
    """Noise x0 [4, 4, 8, 8] and the conditioning of four prompts."""
    tensors = load_file(fixtures / "sana" / "inputs.safetensors")
    return tensors.pop("x0"), tensors
