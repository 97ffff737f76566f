"""ZImagePipeline without classifier-free guidance: Z-Image-Turbo."""

from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, ZImagePipeline
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs, require_multiples
from hn.generators.families.flow import FlowMatching


class ZImage(FlowMatching):
    """Single-stream transformer over the tokens of prompt and image; its time runs from 0 at pure noise to 1.

    Latents are float32 in the pipeline, whatever the weights are. It takes lists of embeddings of different lengths;
    the conditioning holds them padded with zeros to `max_sequence_length`, and their lengths.

    Args:
        max_sequence_length: tokens of the prompt, chat template included.
    """

    pipeline_class = ZImagePipeline
    backbone_name = "transformer"
    last_layer = "all_final_layer.2-1.linear"  # for patches of 2 x 2 in 1 frame, which the pipeline uses
    text_width_name = "cap_feat_dim"
    latents_dtype: ClassVar[torch.dtype | None] = torch.float32
    first_timestep = 0.0
    encoding_options = ("max_sequence_length",)
    reads_conditioning = True

    def __init__(self, max_sequence_length: int = 512):
        self.max_sequence_length = max_sequence_length

    def image_size(self, pipe: DiffusionPipeline) -> tuple[int, int]:
        return 1024, 1024  # written in the pipeline's call

    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        factor = pipe.vae_scale_factor
        require_multiples(height, width, 2 * factor)
        return pipe.transformer.config.in_channels, height // factor, width // factor

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        # A copy of the list: the pipeline writes its chat template into the one it is given.
        embeds, _ = pipe.encode_prompt(
            list(prompts), device, do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        lengths = torch.tensor([len(sample) for sample in embeds], device=device)
        # Padded behind one row of the full length, which is taken off again.
        full = embeds[0].new_zeros(self.max_sequence_length, embeds[0].shape[1])
        return {"prompt_embeds": pad_sequence([full, *embeds], batch_first=True)[1:], "prompt_lengths": lengths}

    def text_states(self, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        embeds, lengths = conditioning["prompt_embeds"], conditioning["prompt_lengths"]
        return embeds, torch.arange(embeds.shape[1], device=embeds.device) < lengths[:, None]

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        return {"prompt_embeds": self._unpadded(conditioning), "guidance_scale": 0.0}

    def call_backbone(self, pipe: DiffusionPipeline, backbone: nn.Module, inputs: BackboneInputs) -> Tensor:
        images = list(inputs.sample.unsqueeze(2).unbind())  # one frame [C, 1, H, W] a sample
        output = backbone(images, inputs.timestep, self._unpadded(inputs.conditioning), return_dict=False)[0]
        return torch.stack(output).squeeze(2)

    def decode(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
        config = pipe.vae.config
        latents = latents.to(pipe.vae.dtype) / config.scaling_factor + config.shift_factor
        return pipe.vae.decode(latents, return_dict=False)[0]

    @staticmethod
    def _unpadded(conditioning: Conditioning) -> list[Tensor]:
        """Embeddings [L, C] of each prompt, L different."""
        lengths = conditioning["prompt_lengths"].tolist()
        return [embeds[:length] for embeds, length in zip(conditioning["prompt_embeds"], lengths, strict=True)]
