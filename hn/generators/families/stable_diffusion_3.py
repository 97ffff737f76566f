"""StableDiffusion3Pipeline without classifier-free guidance: SD3.5-Large-Turbo."""

from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs, require_multiples
from hn.generators.families.flow import FlowMatching


class StableDiffusion3(FlowMatching):
    """Multimodal transformer conditioned by two CLIP encoders and T5, of which T5 may be missing.

    Args:
        max_sequence_length: tokens of the prompt for T5; CLIP sees the first 77.
    """

    pipeline_class = StableDiffusion3Pipeline
    backbone_name = "transformer"
    last_layer = "proj_out"
    text_parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3")
    encoding_options = ("max_sequence_length",)
    first_timestep = 1000.0

    def __init__(self, max_sequence_length: int = 256):
        self.max_sequence_length = max_sequence_length

    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        factor = pipe.vae_scale_factor
        require_multiples(height, width, pipe.patch_size * factor)
        return pipe.transformer.config.in_channels, height // factor, width // factor

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        return [pipe.tokenizer if pipe.text_encoder_3 is None else pipe.tokenizer_3]

    def max_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return min(self.max_sequence_length, tokenizer.model_max_length)

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, _, pooled, _ = pipe.encode_prompt(
            prompts,
            prompt_2=None,
            prompt_3=None,
            device=device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        return {**conditioning, "guidance_scale": 0.0}

    def call_backbone(self, pipe: DiffusionPipeline, backbone: nn.Module, inputs: BackboneInputs) -> Tensor:
        return backbone(
            hidden_states=inputs.sample,
            timestep=inputs.timestep,
            encoder_hidden_states=inputs.conditioning["prompt_embeds"],
            pooled_projections=inputs.conditioning["pooled_prompt_embeds"],
            return_dict=False,
        )[0]

    def decode(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
        config = pipe.vae.config
        return pipe.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0]
