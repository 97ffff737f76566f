"""CLIP similarity of image and prompt, from any CLIPModel of transformers (CLIP, OpenCLIP, PickScore)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hn.pretrained import explain_missing, locate, parse_dtype
from hn.prompt_cache import PromptCache
from hn.rewards.base import Reward
from hn.rewards.preprocess import ClipPreprocess

Scale = Literal["logit", "percent", "cosine"]


def cosine_scores(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Cosine of each image with its own prompt: [B, D], [B, D] -> [B] in [-1, 1]; in float32 at least, also under
    autocast, since half precision has no more than a few values for all images of a prompt."""
    with torch.autocast(image_features.device.type, enabled=False):
        return functional.cosine_similarity(_full(image_features), _full(text_features), dim=-1)


class ClipReward(Reward):
    """exp(logit_scale) * cos(image features, text features), as the published loss `100 - score` has it.

    Text features are cached by prompt. Images are resized and cropped as `ClipPreprocess` does, and features compared,
    in float32 at least, whatever the data type of the weights: scores are float32 too.

    Args:
        pretrained: Hub id or local folder of a CLIPModel.
        revision: branch, tag or commit on the Hub.
        tokenizer: Hub id or folder of the tokenizer, where the model comes without one (PickScore).
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        scale: "logit" for exp(logit_scale) * cos (about 100 * cos), "percent" for a hundredth of it, "cosine" for cos.
        prompt_cache_size: number of prompts whose features are kept.
        encode_batch_size: most prompts encoded in one call of the text tower. With 1 a prompt's features do not depend,
            to the last bit, on the prompts that happen to be new with it.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is unknown or out of range.
    """

    def __init__(
        self,
        pretrained: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        revision: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        scale: Scale = "logit",
        prompt_cache_size: int = 16384,
        encode_batch_size: int = 64,
    ):
        super().__init__()
        if encode_batch_size < 1:
            raise ValueError(f"encode_batch_size must be at least 1, not {encode_batch_size}.")
        if scale not in ("logit", "percent", "cosine"):
            raise ValueError(f"Unknown scale {scale!r}; choose 'logit', 'percent' or 'cosine'.")
        torch_dtype = parse_dtype(dtype)
        found = locate(pretrained, "config.json", revision)
        with explain_missing(pretrained, revision):
            self.model = CLIPModel.from_pretrained(found, revision=revision, dtype=torch_dtype)
            mean, std = _normalisation(found, revision)
        if tokenizer is None:
            tokenizer, tokenizer_revision = pretrained, revision
        else:
            tokenizer_revision = None
        found = locate(tokenizer, "tokenizer_config.json", tokenizer_revision)
        with explain_missing(tokenizer, tokenizer_revision):
            self.tokenizer = CLIPTokenizer.from_pretrained(found, revision=tokenizer_revision)
        self.scale = scale
        self.encode_batch_size = encode_batch_size
        self.preprocess = ClipPreprocess(self.model.config.vision_config.image_size, mean, std)
        self._prompt_cache: PromptCache[Tensor] = PromptCache(prompt_cache_size)
        self.freeze()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        text_features = torch.stack(self._prompt_cache.get(prompts, self._features_of_prompts))
        return self.multiplier() * cosine_scores(self.image_features(images), text_features)

    def multiplier(self) -> Tensor | float:
        """What the cosine is multiplied with."""
        if self.scale == "cosine":
            return 1.0
        return _full(self.model.logit_scale).exp() / (100 if self.scale == "percent" else 1)

    def image_features(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, 3, H, W] in [0, 1]."""
        return self.encode_pixels(self.preprocess(_full(images)))

    def encode_pixels(self, pixel_values: Tensor) -> Tensor:
        """Features [B, D] of preprocessed images [B, 3, size, size]."""
        return self.model.get_image_features(pixel_values=pixel_values.to(self.model.dtype)).pooler_output

    def encode_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features [B, D] of tokenized prompts [B, L]."""
        return self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output

    def _features_of_prompts(self, prompts: list[str]) -> list[Tensor]:
        size = self.encode_batch_size
        batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        return [features for batch in batches for features in self._encode_prompts(batch)]

    def _encode_prompts(self, prompts: list[str]) -> list[Tensor]:
        # Padded to the full window, so that a prompt's features do not depend on the lengths of the others.
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.model.config.text_config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        ).to(self.model.device)
        return [row.clone() for row in self.encode_tokens(tokens.input_ids, tokens.attention_mask)]

    def _apply(self, fn, recurse: bool = True):  # what .to(), .cuda() and .half() go through
        self._prompt_cache.clear()
        return super()._apply(fn, recurse)


def _full(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _normalisation(pretrained: str, revision: str | None) -> tuple[Sequence[float], Sequence[float]]:
    """Channel mean and std of the model's preprocessor; CLIP's published ones where it comes without."""
    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(pretrained, revision=revision)
    except OSError:
        config = {}
    return config.get("image_mean", OPENAI_CLIP_MEAN), config.get("image_std", OPENAI_CLIP_STD)
