"""The base of rewards on image-text models with two towers: scaled cosine of features, cached text features."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hn.data.encodings.cache import PromptCache
from hn.data.encodings.files import PromptFiles
from hn.data.encodings.truncation import TruncationCounter
from hn.rewards.base import PreprocessedReward
from hn.utils.device import to_device
from hn.utils.dtype import full_precision
from hn.utils.private.torch import ApplyHook

Scale = Literal["logit", "percent", "cosine"]
FEATURES = "text_features"  # the only tensor of a prompt in files


def cosine_scores(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Cosine of each image with its own prompt: [B, D], [B, D] -> [B] in [-1, 1]. Computed in float32 or float64, also
    under autocast: in half precision most images of a prompt would have the same score."""
    with torch.autocast(image_features.device.type, enabled=False):
        return functional.cosine_similarity(full_precision(image_features), full_precision(text_features), dim=-1)


def number(parameter: Tensor) -> float:
    """The value of a parameter of one element; NaN on the meta device, where there is none."""
    return math.nan if parameter.is_meta else full_precision(parameter).item()


class ContrastiveReward(ApplyHook, PreprocessedReward):
    """scale * cos(image features, text features); text features are cached by prompt.

    Subclasses load their towers, set `model`, `preprocess`, `logit_scale`, `text_source` and the counter of truncated
    prompts, and implement the encoding of images and prompts and `text_fingerprint`.

    Text features are computed outside autocast, so that cached ones do not depend on the first caller. They can be read
    from files (`use_files`); then the text tower is not needed.

    Args:
        scale: "logit" for exp(logit_scale) * cos (about 100 * cos), "percent" for a hundredth of it, "cosine" for cos.
        prompt_cache_size: number of prompts whose features are cached.
        encode_batch_size: most prompts per call of the text tower.

    Attributes:
        model: both towers, and the parameter `logit_scale`.
        text_source: the arguments that `text_fingerprint` reads.
        truncation: counts prompts as they are encoded; one warning says how many were cut.
        logit_scale: as a Python number, since half precision would change exp(logit_scale) by one percent.

    Raises:
        ValueError: if an argument is unknown or out of range.
    """

    model: Any  # transformers' or open_clip's
    text_source: dict[str, Any]
    truncation: TruncationCounter
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
        self._files: PromptFiles | None = None

    @property
    def published_weight(self) -> float | None:
        """The weight of CLIP ViT-H-14: 0.01 for the scale "logit", which is 1 for "percent"; None for "cosine"."""
        return {"logit": 0.01, "percent": 1.0}.get(self.scale)

    def score_pixels(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        text_features = torch.stack(self._prompt_cache.get(prompts, self._features_of_prompts))
        return self.multiplier() * cosine_scores(self.encode_pixels(pixel_values), text_features)

    def multiplier(self) -> float:
        """The factor of the cosine."""
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
        """Features [n, D] of n prompts, in one call of the text tower; `truncation` counts them."""

    @classmethod
    @abstractmethod
    def text_fingerprint(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that determines the text features, as JSON values for `PromptFiles`; loads no weights.

        Args:
            arguments: of `__init__`, including defaults.

        Raises:
            FileNotFoundError: if the weights are missing; says how to get them.
        """

    @abstractmethod
    def drop_text_tower(self) -> None:
        """Remove the text tower to free its memory; after that, no prompts can be encoded."""

    def use_files(self, files: PromptFiles) -> None:
        """Read text features from files. If there are any, the text tower is removed, and only prompts in the files can
        be scored. Otherwise the tower stays, and a warning is logged.

        Args:
            files: of `text_fingerprint(text_source)`.

        Raises:
            ValueError: if a file is damaged.
        """
        if not len(files):
            files.warn_of_absence()
            return
        self._prompt_cache.clear()
        self._files = files
        self.drop_text_tower()

    def check_prompts(self, prompts: Iterable[str]) -> None:
        if self._files is not None:
            self._files.require(prompts)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Features [n, D] of n prompts, in batches, without gradients and outside autocast, on the reward's device. The
        caller logs the number of truncated prompts."""
        size, device = self.encode_batch_size, self.model.logit_scale.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return torch.cat(
                [self.encode_prompts(list(prompts[at : at + size])) for at in range(0, len(prompts), size)]
            )

    def _features_of_prompts(self, prompts: list[str]) -> list[Tensor]:
        if self._files is None:
            features = self.encode_text(prompts)
            self.truncation.warn()
            # Cloned: a view would keep the whole batch in memory while one of its prompts is cached.
            return [row.clone() for row in features]
        self._files.require(prompts)
        scale = self.model.logit_scale  # has the device and data type that the text tower would have
        read = torch.cat([self._files.read(prompt)[FEATURES] for prompt in prompts])
        return [row.clone() for row in to_device(read.to(scale.dtype), scale.device)]

    def before_apply(self, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        self._prompt_cache.clear()  # cached values are of the device and data type of before
        return convert
