"""StableDiffusionXLPipeline without classifier-free guidance: SDXL-Turbo, SDXL-Lightning, Hyper-SD, LCM-SDXL."""

from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hn.generators.base import Conditioning
from hn.generators.families.base import BackboneInputs
from hn.generators.families.stable_diffusion import StableDiffusion
from hn.utils.device import to_device


class StableDiffusionXL(StableDiffusion):
    """UNet that is also told the pooled embedding of the prompt and the size of the image; arguments as the parent's.

    The image counts as uncropped and of its own size, as in the pipeline's call. No invisible watermark is drawn.
    """

    pipeline_class = StableDiffusionXLPipeline
    text_parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    encoding_options = ()
    load_options: ClassVar[dict[str, Any]] = {"add_watermarker": False}

    def check(self, pipe: DiffusionPipeline) -> None:
        """Raises:
        ValueError: if this family cannot run `pipe`, the guidance scale asks for classifier-free guidance, or the
            autoencoder would overflow.
        """
        super().check(pipe)
        # The pipeline casts such an autoencoder to float32 for each image and back.
        if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
            raise ValueError(
                "This autoencoder overflows in float16; set dtype to bfloat16, or take another one with components: "
                "{vae: {pretrained: madebyollin/sdxl-vae-fp16-fix}}."
            )

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        return [tokenizer for tokenizer in (pipe.tokenizer, pipe.tokenizer_2) if tokenizer is not None]

    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        embeds, _, pooled, _ = pipe.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def call_backbone(self, pipe: DiffusionPipeline, backbone: nn.Module, inputs: BackboneInputs) -> Tensor:
        embeds, pooled = inputs.conditioning["prompt_embeds"], inputs.conditioning["pooled_prompt_embeds"]
        # Original size, offset of the crop, target size: six numbers.
        sizes = to_device(
            torch.tensor([inputs.height, inputs.width, 0, 0, inputs.height, inputs.width], dtype=embeds.dtype),
            embeds.device,
        )
        return backbone(
            inputs.sample,
            inputs.timestep,
            encoder_hidden_states=embeds,
            timestep_cond=self._guidance_embedding(pipe, inputs.sample),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.expand(inputs.sample.shape[0], -1)},
            return_dict=False,
        )[0]

    def decode(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
        config = pipe.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return super().decode(pipe, latents, height, width)
        mean, std = (
            to_device(torch.tensor(values).view(1, -1, 1, 1).to(latents.dtype), latents.device)
            for values in (mean, std)
        )
        return pipe.vae.decode(latents * std / config.scaling_factor + mean, return_dict=False)[0]
