"""SanaSprintPipeline: SANA-Sprint 0.6B and 1.6B."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, ModelMixin, SanaSprintPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_1024_BIN
from torch import Tensor

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs, Family, FirstStep, require_multiples

# What the pipeline itself tells the text encoder before the prompt.
_INSTRUCTION = inspect.signature(SanaSprintPipeline.__call__).parameters["complex_human_instruction"].default


class SanaSprint(Family):
    """Linear-attention transformer in the latents of a deep-compression autoencoder, guided by an embedding.

    Latents are float32 in the pipeline, whatever the weights are. It multiplies the noise by sigma_data and divides by
    it again before the transformer, which therefore sees it as N(0, I). Images have the size asked for: the pipeline's
    resolution binning is off. Steps after the first draw noise.

    Args:
        guidance_scale: passed to the pipeline; multiplied with the model's `guidance_embeds_scale` it is the embedding.
        intermediate_timestep: angle of the second of two steps; evenly spaced if None, as other numbers of steps are.
        instruction: what the text encoder is told before the prompt; the pipeline's own by default, [] for none.
        max_sequence_length: tokens of the prompt, without the instruction.
    """

    pipeline_class = SanaSprintPipeline
    backbone_name = "transformer"
    last_layer = "proj_out"
    text_width_name = "caption_channels"
    encoding_options = ("max_sequence_length", "instruction")
    latents_dtype: ClassVar[torch.dtype | None] = torch.float32

    def __init__(
        self,
        guidance_scale: float = 4.5,
        intermediate_timestep: float | None = 1.3,
        instruction: Sequence[str] | None = None,
        max_sequence_length: int = 300,
    ):
        self.guidance_scale = guidance_scale
        self.intermediate_timestep = intermediate_timestep
        self.instruction = list(_INSTRUCTION if instruction is None else instruction)
        self.max_sequence_length = max_sequence_length

    def image_size(self, pipe: DiffusionPipeline) -> tuple[int, int]:
        size = pipe.transformer.config.sample_size * pipe.vae_scale_factor
        return size, size

    def trained_sizes(self, pipe: DiffusionPipeline) -> list[tuple[int, int]]:
        """The bins to which the pipeline would bring other sizes; the default for other models than that of 1024."""
        if self.image_size(pipe) != (1024, 1024):
            return super().trained_sizes(pipe)
        return [(int(height), int(width)) for height, width in ASPECT_RATIO_1024_BIN.values()]

    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        # The pipeline itself asks for multiples of 32, whatever the autoencoder's factor.
        require_multiples(height, width, max(32, pipe.vae_scale_factor))
        factor = pipe.vae_scale_factor
        return pipe.transformer.config.in_channels, height // factor, width // factor

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, mask = pipe.encode_prompt(
            prompts,
            device=device,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=self.instruction,
        )
        # What the mask hides counts for nothing; as zeros it need not be kept in files either.
        return {"prompt_embeds": embeds.masked_fill(mask.unsqueeze(-1) == 0, 0), "prompt_attention_mask": mask}

    def text_states(self, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        return conditioning["prompt_embeds"], conditioning["prompt_attention_mask"]

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        return {
            **conditioning,
            "guidance_scale": self.guidance_scale,
            "intermediate_timesteps": self.intermediate_timestep if steps == 2 else None,
            "use_resolution_binning": False,
        }

    def first_step(self, pipe: DiffusionPipeline) -> FirstStep:
        # The pipeline starts at the angle 1.57080, whose share of noise, sin / (sin + cos), is 1 to five digits.
        return FirstStep(timestep=1.0, input_scale=1.0)

    def call_backbone(self, pipe: DiffusionPipeline, backbone: ModelMixin, inputs: BackboneInputs) -> Tensor:
        embeds = inputs.conditioning["prompt_embeds"].to(inputs.sample.dtype)
        guidance = torch.full_like(inputs.timestep, self.guidance_scale, dtype=embeds.dtype)
        return backbone(
            inputs.sample,
            encoder_hidden_states=embeds,
            encoder_attention_mask=inputs.conditioning["prompt_attention_mask"],
            guidance=guidance * backbone.config.guidance_embeds_scale,
            timestep=inputs.timestep,
            return_dict=False,
        )[0]

    def decode(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
        return super().decode(pipe, latents.to(pipe.vae.dtype), height, width)
