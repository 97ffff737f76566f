"""QwenImagePipeline without classifier-free guidance: Qwen-Image with a Lightning LoRA."""

from typing import Any

import torch
from diffusers import DiffusionPipeline, QwenImagePipeline
from torch import Tensor, nn
from torch.nn.functional import pad

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs
from hn.generators.families.flow import PackedFlowMatching
from hn.utils.device import to_device
from hn.utils.private.diffusers import unpack_latents


class QwenImage(PackedFlowMatching):
    """Transformer over packed latents, conditioned by Qwen2.5-VL.

    The pipeline pads prompts to the longest of a batch; the conditioning holds them padded to `max_sequence_length`,
    and they are cut back to the longest before they are used.

    Args:
        max_sequence_length: tokens of the prompt.
    """

    pipeline_class = QwenImagePipeline
    backbone_name = "transformer"
    last_layer = "proj_out"
    encoding_options = ("max_sequence_length",)
    reads_conditioning = True

    def __init__(self, max_sequence_length: int = 512):
        self.max_sequence_length = max_sequence_length

    def check(self, pipe: DiffusionPipeline) -> None:
        """Raises:
        ValueError: if this family cannot run `pipe`.
        """
        super().check(pipe)
        if pipe.transformer.config.guidance_embeds:
            raise ValueError("This transformer takes its guidance as an embedding; the family does not provide it.")

    def trained_sizes(self, pipe: DiffusionPipeline) -> list[tuple[int, int]]:
        """The sizes that the authors of model and LoRA sample: 1:1, 16:9, 4:3 and 3:2, both ways round."""
        wide = [(928, 1664), (1104, 1472), (1056, 1584)]
        return [(1328, 1328), *wide, *((width, height) for height, width in wide)]

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, mask = pipe.encode_prompt(prompts, device=device, max_sequence_length=self.max_sequence_length)
        if mask is None:  # all prompts are of the same length
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        missing = self.max_sequence_length - embeds.shape[1]
        return {"prompt_embeds": pad(embeds, (0, 0, 0, missing)), "prompt_embeds_mask": pad(mask, (0, missing))}

    def text_states(self, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        return conditioning["prompt_embeds"], conditioning["prompt_embeds_mask"]

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        embeds, mask = self._cut(conditioning)
        # Guidance 1 and no negative prompt: no second pass.
        return {"prompt_embeds": embeds, "prompt_embeds_mask": mask, "true_cfg_scale": 1.0}

    def call_backbone(self, pipe: DiffusionPipeline, backbone: nn.Module, inputs: BackboneInputs) -> Tensor:
        embeds, mask = self._cut(inputs.conditioning)
        patch = 2 * pipe.vae_scale_factor
        return backbone(
            hidden_states=inputs.sample,
            timestep=inputs.timestep.to(inputs.sample.dtype),
            guidance=None,
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=None if mask.all() else mask,
            img_shapes=[[(1, inputs.height // patch, inputs.width // patch)]] * len(inputs.sample),
            return_dict=False,
        )[0]

    def decode(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
        config = pipe.vae.config
        # [B, C, 1, H, W]: the autoencoder is one for videos.
        latents = unpack_latents(pipe, latents, height, width).to(pipe.vae.dtype)
        mean, std = (
            to_device(torch.tensor(values).view(1, -1, 1, 1, 1).to(latents.dtype), latents.device)
            for values in (config.latents_mean, config.latents_std)
        )
        # Divided by the inverse, as in the pipeline: the same to the last bit.
        return pipe.vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0][:, :, 0]

    @staticmethod
    def _cut(conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Embeddings [B, L, C] and mask [B, L] of the longest prompt's length."""
        embeds, mask = conditioning["prompt_embeds"], conditioning["prompt_embeds_mask"]
        length = int(mask.sum(1).max())
        return embeds[:, :length], mask[:, :length]
