"""What image-text models with two towers share: the cosine of features, its scale, and text features by prompt."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from hn.precision import full_precision
from hn.prompt_cache import PromptCache
from hn.rewards.base import PreprocessedReward

Scale = Literal["logit", "percent", "cosine"]


def cosine_scores(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Cosine of each image with its own prompt: [B, D], [B, D] -> [B] in [-1, 1]; in float32 at least, also under
    autocast, since half precision has no more than a few values for all images of a prompt."""
    with torch.autocast(image_features.device.type, enabled=False):
        return functional.cosine_similarity(full_precision(image_features), full_precision(text_features), dim=-1)


class ContrastiveReward(PreprocessedReward):
    """scale * cos(image features, text features); text features are cached by prompt.

    Subclasses load their towers, set `preprocess` and `logit_scale`, and say how images and prompts are encoded.

    Args:
        scale: "logit" for exp(logit_scale) * cos (about 100 * cos), "percent" for a hundredth of it, "cosine" for cos.
        prompt_cache_size: number of prompts whose features are kept.
        encode_batch_size: most prompts encoded in one call of the text tower.

    Attributes:
        logit_scale: the published model's, a number: half precision would round exp(logit_scale) by one percent.

    Raises:
        ValueError: if an argument is unknown or out of range.
    """

    logit_scale: float

    def __init__(self, scale: Scale, prompt_cache_size: int, encode_batch_size: int):
        super().__init__()
        if encode_batch_size < 1:
            raise ValueError(f"encode_batch_size must be at least 1, not {encode_batch_size}.")
        if scale not in ("logit", "percent", "cosine"):
            raise ValueError(f"Unknown scale {scale!r}; choose 'logit', 'percent' or 'cosine'.")
        self.scale = scale
        self.encode_batch_size = encode_batch_size
        self._prompt_cache: PromptCache[Tensor] = PromptCache(prompt_cache_size)

    @property
    def published_weight(self) -> float | None:
        """That of CLIP ViT-H-14: 0.01 on the logit, which is 1 on a hundredth of it; none on the bare cosine."""
        return {"logit": 0.01, "percent": 1.0}.get(self.scale)

    def score_pixels(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        text_features = torch.stack(self._prompt_cache.get(prompts, self._features_of_prompts))
        return self.multiplier() * cosine_scores(self.encode_pixels(pixel_values), text_features)

    def multiplier(self) -> float:
        """What the cosine is multiplied with."""
        if self.scale == "cosine":
            return 1.0
        return math.exp(self.logit_scale) / (100 if self.scale == "percent" else 1)

    def image_features(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, 3, H, W] in [0, 1]."""
        return self.encode_pixels(self.preprocess(full_precision(images)))

    @abstractmethod
    def encode_pixels(self, pixel_values: Tensor) -> Tensor:
        """Features [B, D] of preprocessed images [B, 3, size, size]."""

    @abstractmethod
    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Features [n, D] of n prompts, in one call of the text tower."""

    def _features_of_prompts(self, prompts: list[str]) -> list[Tensor]:
        size = self.encode_batch_size
        batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        return [row.clone() for batch in batches for row in self.encode_prompts(batch)]

    def _apply(self, fn, recurse: bool = True):  # what .to(), .cuda() and .half() go through
        self._prompt_cache.clear()
        return super()._apply(fn, recurse)
