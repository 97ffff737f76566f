"""Flux2KleinPipeline: FLUX.2-klein-4B, distilled."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs, require_multiples
from hn.generators.families.flow import FlowMatching
from hn.utils.device import to_device
from hn.utils.private.diffusers import flux2_positions, flux2_text_positions


class Flux2Klein(FlowMatching):
    """Transformer over the tokens of prompt and image, conditioned by hidden layers of Qwen3.

    The pipeline takes latents of 2 x 2 patches, [4 C, H / 2, W / 2], and flattens them to tokens; f is folded back. The
    latents it returns are those of the autoencoder, [C, H, W], normalisation undone.

    Args:
        text_layers: hidden layers of the text encoder that condition the transformer.
        max_sequence_length: tokens of the prompt, chat template included; shorter prompts are padded.
    """

    pipeline_class = Flux2KleinPipeline
    backbone_name = "transformer"
    last_layer = "proj_out"
    encoding_options = ("max_sequence_length", "text_layers")

    def __init__(self, text_layers: Sequence[int] = (9, 18, 27), max_sequence_length: int = 512):
        self.text_layers = tuple(text_layers)
        self.max_sequence_length = max_sequence_length

    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        patch = 2 * pipe.vae_scale_factor
        require_multiples(height, width, patch)
        return pipe.transformer.config.in_channels, height // patch, width // patch

    def to_spatial(self, noise: Tensor, height: int, width: int, pipe: DiffusionPipeline) -> Tensor:
        return pixel_shuffle(noise, 2)

    def from_spatial(self, spatial: Tensor) -> Tensor:
        return pixel_unshuffle(spatial, 2)

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, _ = pipe.encode_prompt(
            prompts,
            device=device,
            max_sequence_length=self.max_sequence_length,
            text_encoder_out_layers=self.text_layers,
        )
        return {"prompt_embeds": embeds}

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        return {**conditioning, "guidance_scale": 1.0}

    def call_backbone(self, pipe: DiffusionPipeline, backbone: nn.Module, inputs: BackboneInputs) -> Tensor:
        embeds = inputs.conditioning["prompt_embeds"]
        output = backbone(
            hidden_states=inputs.sample.flatten(2).transpose(1, 2),
            timestep=inputs.timestep.to(inputs.sample.dtype),
            guidance=None,
            encoder_hidden_states=embeds,
            # All alike.
            txt_ids=to_device(flux2_text_positions(pipe, embeds[:1]), embeds.device).expand(embeds.shape[0], -1, -1),
            img_ids=to_device(flux2_positions(pipe, inputs.sample), embeds.device),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(inputs.sample.shape)

    def decode(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
        return pipe.vae.decode(latents, return_dict=False)[0]
