"""StableDiffusionPipeline without classifier-free guidance: SD-Turbo and the miniature."""

from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hn.generators.base import Conditioning
from hn.generators.families.base import Family, FirstStep


class StableDiffusion(Family):
    """UNet with text cross-attention; distilled checkpoints run without classifier-free guidance.

    The safety checker is not loaded: it would blank images, which no reward should see.

    Args:
        guidance_scale: handed to the pipeline; 0 as SD-Turbo's authors do. Above 1 the pipeline would run
            classifier-free guidance, which is refused.

    Raises:
        ValueError: if `guidance_scale` is above 1.
    """

    pipeline_class = StableDiffusionPipeline
    backbone_name = "unet"
    last_layer = "conv_out"
    load_options: ClassVar[dict[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}

    def __init__(self, guidance_scale: float = 0.0):
        if guidance_scale > 1:
            raise ValueError(
                f"guidance_scale {guidance_scale} asks for classifier-free guidance; distilled generators run without "
                "it, choose a value of at most 1."
            )
        self.guidance_scale = guidance_scale

    def check(self, pipe: DiffusionPipeline) -> None:
        super().check(pipe)
        if pipe.unet.config.time_cond_proj_dim is not None:
            raise ValueError("This UNet takes its guidance as an embedding (LCM); the family does not provide it.")

    def image_size(self, pipe: DiffusionPipeline) -> tuple[int, int]:
        size = pipe.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor

    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        # The pipeline itself asks for multiples of 8, whatever the autoencoder's factor.
        multiple = max(8, pipe.vae_scale_factor)
        if height % multiple or width % multiple or height <= 0 or width <= 0:
            raise ValueError(f"Height and width must be positive multiples of {multiple}, not {height} x {width}.")
        return pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        return [pipe.tokenizer]

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, _ = pipe.encode_prompt(prompts, device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    def call_arguments(self, conditioning: Conditioning) -> dict[str, Any]:
        return {**conditioning, "guidance_scale": self.guidance_scale}

    def first_step(self, pipe: DiffusionPipeline) -> FirstStep:
        # A scheduler of its own: the pipeline's keeps its state.
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        scheduler.set_timesteps(1)
        timestep = float(scheduler.timesteps[0])
        last = scheduler.config.num_train_timesteps - 1
        if round(timestep) != last:
            raise ValueError(
                f"The one-step schedule of {type(scheduler).__name__} starts at timestep {timestep:g}, not at the last "
                f'training timestep {last}; set scheduler_options to {{"timestep_spacing": "trailing"}}.'
            )
        # The pipeline multiplies the noise by init_noise_sigma and the scheduler scales it for the network: both are
        # linear, so one number says it. Asked in float64, without the rounding of either.
        one = torch.ones(1, dtype=torch.float64) * scheduler.init_noise_sigma
        return FirstStep(timestep, float(scheduler.scale_model_input(one, scheduler.timesteps[0])))

    def call_backbone(
        self,
        pipe: DiffusionPipeline,
        backbone: nn.Module,
        model_input: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
    ) -> Tensor:
        embeds = conditioning["prompt_embeds"]
        return backbone(model_input, timestep, encoder_hidden_states=embeds, return_dict=False)[0]
