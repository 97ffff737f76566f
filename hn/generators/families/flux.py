"""FluxPipeline: FLUX.1-schnell."""

from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxPipeline, ModelMixin
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs
from hn.generators.families.flow import PackedFlowMatching
from hn.utils.device import to_device
from hn.utils.private.diffusers import flux_positions, unpack_latents


class Flux(PackedFlowMatching):
    """Multimodal and single-stream transformer over packed latents, conditioned by T5 and a summary from CLIP.

    Args:
        guidance_scale: for transformers that take it as an embedding (FLUX.1-dev); schnell does not.
        max_sequence_length: tokens of the prompt for T5; 256 are the most that schnell was distilled with. CLIP sees
            the first 77 only, for a summary of the prompt.
    """

    pipeline_class = FluxPipeline
    backbone_name = "transformer"
    last_layer = "proj_out"
    text_parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    tokens_from = "tokenizer_2"
    encoding_options = ("max_sequence_length",)

    def __init__(self, guidance_scale: float = 3.5, max_sequence_length: int = 256):
        self.guidance_scale = guidance_scale
        self.max_sequence_length = max_sequence_length

    def trained_sizes(self, pipe: DiffusionPipeline) -> list[tuple[int, int]]:
        """Any aspect ratio of 0.1 to 2.0 megapixels, its authors say; these are the squares of that range."""
        return [(320, 320), (512, 512), (1024, 1024), (1408, 1408)]

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        return [pipe.tokenizer_2]

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, pooled, _ = pipe.encode_prompt(prompts, device=device, max_sequence_length=self.max_sequence_length)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        return {**conditioning, "guidance_scale": self.guidance_scale}

    def call_backbone(self, pipe: DiffusionPipeline, backbone: ModelMixin, inputs: BackboneInputs) -> Tensor:
        embeds, patch = inputs.conditioning["prompt_embeds"], 2 * pipe.vae_scale_factor
        guided = backbone.config.guidance_embeds
        return backbone(
            hidden_states=inputs.sample,
            timestep=inputs.timestep.to(inputs.sample.dtype),
            guidance=torch.full_like(inputs.timestep, self.guidance_scale) if guided else None,
            pooled_projections=inputs.conditioning["pooled_prompt_embeds"],
            encoder_hidden_states=embeds,
            # Positions: text has none, an image token its row and column.
            txt_ids=embeds.new_zeros(embeds.shape[1], 3),
            img_ids=to_device(
                flux_positions(pipe, inputs.height // patch, inputs.width // patch, embeds.dtype), embeds.device
            ),
            return_dict=False,
        )[0]

    def decode(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
        config = pipe.vae.config
        latents = unpack_latents(pipe, latents, height, width)
        return pipe.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0]
