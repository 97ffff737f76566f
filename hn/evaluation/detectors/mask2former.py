"""Mask2Former (arXiv 2112.01527), GenEval's detector, from transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Mask2FormerForUniversalSegmentation
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hn.evaluation.detectors.base import Detections
from hn.evaluation.detectors.coco import OBJECTS, object_names
from hn.evaluation.geneval import Detection
from hn.utils.dtype import parse_dtype
from hn.utils.hub import explain_missing, locate
from hn.utils.weights import load_transformers_model

PRETRAINED = "facebook/mask2former-swin-small-coco-instance"
_DIVISOR = 32  # of the sides that the network sees


class Mask2FormerDetector(nn.Module):
    """COCO's 80 objects, with masks, boxes and scores as mmdet's instance test has them; no colours.

    Before the network: shorter side to 800 pixels, the longer one to at most 1333, bilinear without antialiasing;
    ImageNet's mean and std; zeros at the right and bottom up to multiples of 32. After it: mask logits are brought to
    the padded size, cut, and brought to the image's size, both bilinear; of all pairs of query and class the 100 with
    the highest class probability are looked at; a mask is where its logit is above 0; the score is the class
    probability times the mean mask probability within the mask; the box is the mask's, its right and bottom edge one
    past it.

    Differences to the official tool: the default weights are those of Mask2Former's authors, not mmdet's own training
    of the same architecture; images are resized in floating point, not in 8 bits by OpenCV; scores of at most `floor`,
    which no verdict reads, are left out. So verdicts do not equal the official tool's image by image.

    Args:
        pretrained: Hub id or local folder of a Mask2FormerForUniversalSegmentation that labels COCO's objects.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64"; scores and masks are computed in
            float32. In half precision objects near a threshold may fall on its other side.
        floor: detections are left out if their score is not above; in [0, 1).
        max_detections: pairs of query and class that are looked at in an image.
        short_side: of the image that the network sees, in pixels.
        long_side: at most, in pixels.
        batch_size: images in one pass of the network.

    Attributes:
        classes: names of the objects.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is out of range, or the weights or labels are not those of such a model.
    """

    def __init__(
        self,
        pretrained: str = PRETRAINED,
        revision: str | None = None,
        dtype: str = "float32",
        floor: float = 0.05,
        max_detections: int = 100,
        short_side: int = 800,
        long_side: int = 1333,
        batch_size: int = 4,
    ) -> None:
        super().__init__()
        torch_dtype = parse_dtype(dtype)
        if not 0 <= floor < 1:
            raise ValueError(f"floor must be in [0, 1), not {floor}.")
        if min(max_detections, short_side, batch_size) < 1 or long_side < short_side:
            raise ValueError(
                "max_detections, short_side and batch_size must be at least 1, and long_side at least short_side, not "
                f"{max_detections}, {short_side}, {batch_size} and {long_side}."
            )
        found = locate(pretrained, "config.json", revision)
        with explain_missing(pretrained, revision):
            self.model = load_transformers_model(Mask2FormerForUniversalSegmentation, found, revision, torch_dtype)
        try:
            self._names = object_names(self.model.config.id2label)
        except ValueError as error:
            raise ValueError(f"{pretrained} cannot detect what GenEval's prompts ask for: {error}") from None
        self.classes = OBJECTS
        self.floor, self.max_detections, self.batch_size = floor, max_detections, batch_size
        self.short_side, self.long_side = short_side, long_side
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Mask2FormerDetector:
        """Keeps eval mode, whatever `mode` says."""
        return super().train(False)

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[dict[str, list[Detection]]]:
        """For each of the images [B, 3, H, W] in [0, 1] the detections of every class, best first.

        Boxes are (x0, y0, x1, y1) in pixels; masks boolean NumPy arrays [H, W]. Autocast changes nothing.
        """
        found = []
        with torch.autocast(images.device.type, enabled=False):
            for batch in images.split(self.batch_size):
                pixels = self.preprocess(batch)
                output = self.model(pixel_values=pixels.to(self.model.dtype))
                for scores, masks in zip(output.class_queries_logits, output.masks_queries_logits, strict=True):
                    found.append(self._instances(scores, masks, pixels.shape[-2:], batch.shape[-2:]))
        return found

    def preprocess(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> what the network sees, float32 [B, 3, h, w] with h and w multiples of 32."""
        height, width = self._resized(images.shape[-2:])
        images = (_resize(images.float(), (height, width)) - self.mean) / self.std
        return functional.pad(images, (0, -width % _DIVISOR, 0, -height % _DIVISOR))

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image of `size` before it is padded."""
        scale = min(self.long_side / max(size), self.short_side / min(size))
        return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)

    def _instances(
        self, class_logits: Tensor, mask_logits: Tensor, padded: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, list[Detection]]:
        """Detections in one image of `size`, from class logits [Q, C + 1] and mask logits [Q, h, w]."""
        found: Detections = {name: [] for name in self.classes}
        probabilities = class_logits.float().softmax(dim=-1)[:, :-1]
        n_classes = probabilities.shape[1]
        class_scores, places = probabilities.flatten().topk(min(self.max_detections, probabilities.numel()))
        is_object = torch.tensor([name is not None for name in self._names], device=places.device)
        # A score is at most its class probability, so that most masks need not be made.
        wanted = is_object[places % n_classes] & (class_scores > self.floor)
        class_scores, places = class_scores[wanted], places[wanted]
        if not len(places):
            return found

        queries, rows = (places // n_classes).unique(return_inverse=True)
        height, width = self._resized(size)
        logits = _resize(mask_logits[queries].float()[None], padded)[..., :height, :width]
        logits = _resize(logits, size)[0]
        masks = logits > 0
        mask_scores = (logits.sigmoid() * masks).flatten(1).sum(1) / (masks.flatten(1).sum(1) + 1e-6)
        scores = class_scores * mask_scores[rows]
        order = scores.argsort(descending=True, stable=True).tolist()
        boxes, arrays = mask_boxes(masks).tolist(), masks.cpu().numpy()
        scores, rows, labels = scores.tolist(), rows.tolist(), (places % n_classes).tolist()
        for i in order:
            if scores[i] > self.floor:
                detection = Detection(tuple(boxes[rows[i]]), scores[i], mask=arrays[rows[i]])
                found[self._names[labels[i]]].append(detection)
        return found


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes [N, 4] (x0, y0, x1, y1) of boolean masks [N, H, W], float32: x1 and y1 are one past the last pixel.

    An empty mask has the box of zeros.
    """
    edges = []
    for profile in (masks.any(dim=1), masks.any(dim=2)):  # [N, W], [N, H]
        first = profile.int().argmax(dim=1)
        last = profile.shape[1] - profile.int().flip(1).argmax(dim=1)
        edges.append(torch.where(profile.any(dim=1), torch.stack((first, last)), 0))
    (x0, x1), (y0, y1) = edges
    return torch.stack((x0, y0, x1, y1), dim=1).float()


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] -> [B, C, *size]."""
    return functional.interpolate(images, tuple(size), mode="bilinear", align_corners=False)
