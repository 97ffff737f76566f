"""StableDiffusionPipeline and its kin without classifier-free guidance: SD-Turbo, LCM and the miniature."""

from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, LatentConsistencyModelPipeline, StableDiffusionPipeline
from torch import Tensor, nn

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs, Family, FirstStep, first_step_of, require_multiples
from hn.utils.device import to_device


class StableDiffusion(Family):
    """UNet with text cross-attention; distilled checkpoints run without classifier-free guidance.

    UNets distilled to take their guidance as an embedding (LCM, `time_cond_proj_dim` in their configuration) get it.
    The safety checker is not loaded: it would blank images, which no reward should see.

    Args:
        guidance_scale: passed to the pipeline; by default 0, as SD-Turbo's authors do, and 8 for UNets that take it
            as an embedding, as LCM's authors do. Above 1 a UNet without the embedding would run classifier-free
            guidance, which is refused.
        one_step_timestep: training timestep at which one-step generation starts, for checkpoints distilled at another
            than the scheduler's own (Hyper-SD's one-step UNet: 800). More steps follow the scheduler.
    """

    pipeline_class = StableDiffusionPipeline
    backbone_name = "unet"
    last_layer = "conv_out"
    text_width_name = "cross_attention_dim"
    encoding_options = ()
    load_options: ClassVar[dict[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}

    def __init__(self, guidance_scale: float | None = None, one_step_timestep: int | None = None):
        self.guidance_scale = guidance_scale
        self.one_step_timestep = one_step_timestep

    def check(self, pipe: DiffusionPipeline) -> None:
        """Raises:
        ValueError: if this family cannot run `pipe`, or the guidance scale asks for classifier-free guidance.
        """
        super().check(pipe)
        if pipe.unet.config.time_cond_proj_dim is None and (self.guidance_scale or 0) > 1:
            raise ValueError(
                f"guidance_scale {self.guidance_scale} asks for classifier-free guidance; distilled generators run "
                "without it, choose a value of at most 1."
            )

    def image_size(self, pipe: DiffusionPipeline) -> tuple[int, int]:
        size = pipe.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor

    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        # The pipeline itself asks for multiples of 8, whatever the autoencoder's factor.
        require_multiples(height, width, max(8, pipe.vae_scale_factor))
        return pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, _ = pipe.encode_prompt(prompts, device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        arguments: dict[str, Any] = {**conditioning, "guidance_scale": self._scale(pipe)}
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
            self._require_last_timestep(scheduler)
        return first_step_of(scheduler)

    def call_backbone(self, pipe: DiffusionPipeline, backbone: nn.Module, inputs: BackboneInputs) -> Tensor:
        return backbone(
            inputs.sample,
            inputs.timestep,
            encoder_hidden_states=inputs.conditioning["prompt_embeds"],
            timestep_cond=self._guidance_embedding(pipe, inputs.sample),
            return_dict=False,
        )[0]

    def _guidance_embedding(self, pipe: DiffusionPipeline, model_input: Tensor) -> Tensor | None:
        """The guidance of each sample [B, time_cond_proj_dim] as the pipeline embeds it, if the UNet takes it."""
        size = pipe.unet.config.time_cond_proj_dim
        if size is None:
            return None
        weight = torch.full(model_input.shape[:1], self._scale(pipe) - 1)
        embedding = pipe.get_guidance_scale_embedding(weight, embedding_dim=size)
        return to_device(embedding.to(model_input.dtype), model_input.device)

    def _scale(self, pipe: DiffusionPipeline) -> float:
        if self.guidance_scale is not None:
            return self.guidance_scale
        return 0.0 if pipe.unet.config.time_cond_proj_dim is None else 8.0

    @staticmethod
    def _require_last_timestep(scheduler: Any) -> None:
        first, last = float(scheduler.timesteps[0]), scheduler.config.num_train_timesteps - 1
        if round(first) != last:
            raise ValueError(
                f"The one-step schedule of {type(scheduler).__name__} starts at timestep {first:g}, not at the last "
                f'training timestep {last}; set scheduler_options to {{"timestep_spacing": "trailing"}}.'
            )


class LatentConsistency(StableDiffusion):
    """A LatentConsistencyModelPipeline: the UNet takes its guidance as an embedding, and later steps draw noise."""

    pipeline_class = LatentConsistencyModelPipeline
