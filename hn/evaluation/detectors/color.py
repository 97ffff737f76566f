"""The colour of objects, zero-shot by CLIP, as GenEval has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from hn.evaluation.geneval import COLORS, Detection
from hn.rewards.open_clip import OpenClipReward
from hn.utils.dtype import full_precision
from hn.utils.hub import Repository
from hn.utils.private.torch import ApplyHook

ARCHITECTURE, PRETRAINED = "ViT-L-14", "openai"
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
BACKGROUND = "#999"


class ClipColorClassifier(ApplyHook):
    """Which of the ten colours an object has: the one whose texts are nearest to the crop of its box.

    The crop shows the object alone, in front of grey (#999); Pillow resizes it as open_clip's transform does. The text
    of a colour is the normalised mean of the normalised features of three templates. The official tool computes under
    autocast, this one in `dtype`.

    Args:
        architecture: as `OpenClipReward` takes it.
        pretrained: tag, file or Hub id of the weights, likewise.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        batch_size: crops in one pass of the image tower.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is unknown or out of range, or the weights are not the architecture's own.
    """

    def __init__(
        self,
        architecture: str = ARCHITECTURE,
        pretrained: str = PRETRAINED,
        revision: str | None = None,
        dtype: str = "float32",
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.batch_size = batch_size
        self.clip = OpenClipReward(architecture, pretrained, revision, dtype)
        seen = self.clip.preprocess
        mean, std = (tuple(values.flatten().tolist()) for values in (seen.mean, seen.std))
        self.transform = open_clip.image_transform(seen.size, is_train=False, mean=mean, std=std)
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        """What an instance takes from the Hub; `arguments` are those of `__init__`."""
        return OpenClipReward.repositories({"architecture": ARCHITECTURE, "pretrained": PRETRAINED, **arguments})

    def train(self, mode: bool = True) -> ClipColorClassifier:
        """Keeps eval mode, whatever `mode` says."""
        return super().train(False)

    @torch.no_grad()
    def classify(self, crops: Sequence[Image.Image], names: Sequence[str]) -> list[str]:
        """The colours of N crops, as `crop_object` makes them, of objects with these N class names."""
        device = next(self.clip.parameters()).device
        colors = []
        with torch.autocast(device.type, enabled=False):
            for start in range(0, len(crops), self.batch_size):
                pixels = [self.transform(crop) for crop in crops[start : start + self.batch_size]]
                features = full_precision(self.clip.encode_pixels(torch.stack(pixels).to(device)))
                texts = torch.stack([self._text_features(name) for name in names[start : start + self.batch_size]])
                best = (texts @ features[:, :, None])[..., 0].argmax(dim=1)
                colors += [COLORS[index] for index in best.tolist()]
        return colors

    def _text_features(self, name: str) -> Tensor:
        """Unit features [10, D] of the colours of a class, in float32 at least; kept."""
        if name not in self._texts:
            texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
            features = normalize(full_precision(self.clip.encode_prompts(texts)), dim=-1)
            self._texts[name] = normalize(features.unflatten(0, (len(COLORS), len(TEMPLATES))).mean(dim=1), dim=-1)
        return self._texts[name]

    def before_apply(self, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        self._texts.clear()  # features of the device and data type of before
        return convert


def crop_object(image: Image.Image, found: Detection) -> Image.Image:
    """The box of an RGB image, everything outside the object's mask (boolean array [H, W]) grey; all of it without one.

    Raises:
        ValueError: if the mask is not of the image's size.
    """
    if found.mask is not None:
        if found.mask.shape != image.size[::-1]:
            raise ValueError(f"a mask of {found.mask.shape} is not of an image of {image.size[::-1]}")
        grey = Image.new("RGB", image.size, BACKGROUND)
        image = Image.composite(image, grey, Image.fromarray(found.mask))
    return image.crop(found.box)
