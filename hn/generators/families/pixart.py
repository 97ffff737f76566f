"""PixArtAlphaPipeline without classifier-free guidance: PixArt-alpha-DMD, one step."""

from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin, PixArtAlphaPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import (
    ASPECT_RATIO_256_BIN,
    ASPECT_RATIO_512_BIN,
    ASPECT_RATIO_1024_BIN,
)
from torch import Tensor

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs, Family, FirstStep, first_step_of, require_multiples

_BINS = {(256, 256): ASPECT_RATIO_256_BIN, (512, 512): ASPECT_RATIO_512_BIN, (1024, 1024): ASPECT_RATIO_1024_BIN}


class PixArtAlpha(Family):
    """Diffusion transformer conditioned by T5. Images have the size asked for: the pipeline's binning is off.

    The DMD checkpoint was distilled to take pure noise, N(0, I), for a sample of training timestep 400, and to answer
    with the image in one step (`timesteps=[400]`, guidance 1, a DDPM scheduler in the authors' demo; their training
    code does not clip the latents, so `clip_sample` has to be off). f is evaluated at that timestep too, for there the
    transformer sees pure noise. The transformer predicts a variance beside the noise, in the second half of its
    channels, which f leaves out.

    Args:
        one_step_timestep: training timestep at which one-step generation starts; None for the scheduler's own, which
            is what other checkpoints want. More steps follow the scheduler.
        max_sequence_length: tokens of the prompt.
    """

    pipeline_class = PixArtAlphaPipeline
    backbone_name = "transformer"
    last_layer = "proj_out"
    text_width_name = "caption_channels"
    encoding_options = ("max_sequence_length",)

    def __init__(self, one_step_timestep: int | None = 400, max_sequence_length: int = 120):
        self.one_step_timestep = one_step_timestep
        self.max_sequence_length = max_sequence_length

    def image_size(self, pipe: DiffusionPipeline) -> tuple[int, int]:
        size = pipe.transformer.config.sample_size * pipe.vae_scale_factor
        return size, size

    def trained_sizes(self, pipe: DiffusionPipeline) -> list[tuple[int, int]]:
        """The bins to which the pipeline would bring other sizes, by the model's default size."""
        default = self.image_size(pipe)
        return [(int(height), int(width)) for height, width in _BINS.get(default, {"1.0": default}).values()]

    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        factor = pipe.vae_scale_factor
        # The pipeline itself asks for multiples of 8, whatever the autoencoder's factor.
        require_multiples(height, width, max(8, pipe.transformer.config.patch_size * factor))
        return pipe.transformer.config.in_channels, height // factor, width // factor

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, mask, _, _ = pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=device,
            clean_caption=True,  # as in the pipeline's call
            max_sequence_length=self.max_sequence_length,
        )
        # What the mask hides counts for nothing; as zeros it need not be kept in files either.
        return {"prompt_embeds": embeds.masked_fill(mask.unsqueeze(-1) == 0, 0), "prompt_attention_mask": mask}

    def text_states(self, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        return conditioning["prompt_embeds"], conditioning["prompt_attention_mask"]

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        # With embeddings given, the pipeline refuses its own default for the negative prompt.
        arguments: dict[str, Any] = {
            **conditioning,
            "negative_prompt": None,
            "guidance_scale": 1.0,
            "use_resolution_binning": False,
        }
        if steps == 1 and self.one_step_timestep is not None:
            arguments["timesteps"] = [self.one_step_timestep]
        return arguments

    def first_step(self, pipe: DiffusionPipeline) -> FirstStep:
        # A scheduler of its own: the pipeline's keeps its state.
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        if self.one_step_timestep is not None:
            scheduler.set_timesteps(timesteps=[self.one_step_timestep])
        else:
            scheduler.set_timesteps(1)
        return first_step_of(scheduler)

    def call_backbone(self, pipe: DiffusionPipeline, backbone: ModelMixin, inputs: BackboneInputs) -> Tensor:
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if backbone.config.sample_size == 128:  # the 1024-pixel model is told the size of the image
            sizes = {
                "resolution": inputs.sample.new_tensor([inputs.height, inputs.width]).expand(
                    inputs.sample.shape[0], -1
                ),
                "aspect_ratio": inputs.sample.new_tensor([inputs.height / inputs.width]).expand(
                    inputs.sample.shape[0], -1
                ),
            }
        output = backbone(
            inputs.sample,
            encoder_hidden_states=inputs.conditioning["prompt_embeds"],
            encoder_attention_mask=inputs.conditioning["prompt_attention_mask"],
            timestep=inputs.timestep,
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        return output[:, : inputs.sample.shape[1]]
