"""OWLv2 (arXiv 2306.09683), a detector of whatever it is asked for, from transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Owlv2ForObjectDetection, Owlv2Processor

from hn.evaluation.detectors.base import Detections
from hn.evaluation.detectors.coco import OBJECTS
from hn.evaluation.geneval import Detection, VerdictOptions
from hn.rewards.vlm import eight_bits
from hn.utils.dtype import parse_dtype
from hn.utils.hub import explain_missing, locate
from hn.utils.weights import load_transformers_model

PRETRAINED = "google/owlv2-base-patch16-ensemble"


class Owlv2Detector(nn.Module):
    """Objects by their names, any names: boxes and scores as transformers' own pipeline computes them, the boxes cut
    at the image's edges; no colours.

    Each of the network's boxes counts for the one of the names asked for that fits it best, if its score is above
    `floor`. `detect_for` asks for the classes that an image's row names, `detect` for `names`.

    Args:
        pretrained: Hub id or folder of an Owlv2ForObjectDetection with its processor.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        template: the text for a name, with {name} in its place.
        floor: detections are left out if their score is not above; in [0, 1). transformers' own default.
        names: what `detect` asks for; COCO's 80 objects if not given.
        batch_size: images in one pass of the network.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is unknown or out of range, or the weights are not those of such a model.
    """

    def __init__(
        self,
        pretrained: str = PRETRAINED,
        revision: str | None = None,
        dtype: str = "float32",
        template: str = "a photo of a {name}",
        floor: float = 0.1,
        names: Sequence[str] = OBJECTS,
        batch_size: int = 4,
    ) -> None:
        super().__init__()
        torch_dtype = parse_dtype(dtype)
        if not 0 <= floor < 1:
            raise ValueError(f"floor must be in [0, 1), not {floor}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        if "{name}" not in template:
            raise ValueError(f"The template {template!r} has no {{name}}, where the object's name belongs.")
        self.template, self.floor, self.names, self.batch_size = template, floor, tuple(names), batch_size
        found = locate(pretrained, "config.json", revision)
        with explain_missing(pretrained, revision):
            self.processor = Owlv2Processor.from_pretrained(found, revision=revision)
            self.model = load_transformers_model(Owlv2ForObjectDetection, found, revision, torch_dtype)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Owlv2Detector:
        """Keeps eval mode, whatever `mode` says."""
        return super().train(False)

    def detect(self, images: Tensor) -> list[Detections]:
        """For each of the images [B, 3, H, W] in [0, 1] the detections of each of `names`, best first.

        Boxes are (x0, y0, x1, y1) in pixels. Autocast changes nothing.
        """
        return self._detect(images, [self.names] * len(images))

    def detect_for(
        self, images: Tensor, metadata: Sequence[Mapping[str, Any]], options: VerdictOptions
    ) -> list[Detections]:
        """As `detect`, for the classes that each image's row includes or excludes."""
        clauses = [[*(row.get("include") or ()), *(row.get("exclude") or ())] for row in metadata]
        return self._detect(images, [tuple(dict.fromkeys(clause["class"] for clause in some)) for some in clauses])

    @torch.no_grad()
    def _detect(self, images: Tensor, names: Sequence[Sequence[str]]) -> list[Detections]:
        found: list[Detections] = [{} for _ in names]
        asking = [place for place, some in enumerate(names) if some]
        eight_bit = eight_bits(images)
        with torch.autocast(images.device.type, enabled=False):
            for start in range(0, len(asking), self.batch_size):
                places = asking[start : start + self.batch_size]
                some = self._detect_batch(eight_bit[places], [names[place] for place in places])
                for place, detections in zip(places, some, strict=True):
                    found[place] = detections
        return found

    def _detect_batch(self, images: Tensor, names: Sequence[Sequence[str]]) -> list[Detections]:
        # Repeated to the same number: a box that fits a name fits its repetition as well, and no other name less.
        most = max(map(len, names))
        asked = [[*some, *[some[-1]] * (most - len(some))] for some in names]
        texts = [[self.template.format(name=name) for name in some] for some in asked]
        window = self.model.config.text_config.max_position_embeddings
        inputs = self.processor(
            text=texts,
            images=list(images),
            padding="max_length",
            truncation=True,
            max_length=window,
            return_tensors="pt",
        )
        output = self.model(**inputs.to(self.model.device, self.model.dtype))
        output.logits, output.pred_boxes = output.logits.float(), output.pred_boxes.float()
        size = tuple(images.shape[-2:])
        results = self.processor.post_process_grounded_object_detection(
            output, threshold=self.floor, target_sizes=[size] * len(images), text_labels=asked
        )
        return [_by_name(result, some, size) for result, some in zip(results, names, strict=True)]


def _by_name(result: Mapping[str, Any], names: Sequence[str], size: tuple[int, int]) -> Detections:
    """Detections best first, of each of the names, in an image of that height and width; `result` is one of
    transformers' post-processing."""
    found: Detections = {name: [] for name in names}
    corners = result["boxes"].new_tensor([size[1], size[0], size[1], size[0]])
    boxes = result["boxes"].clamp(min=torch.zeros_like(corners), max=corners).tolist()
    scores = result["scores"].tolist()
    for i in result["scores"].argsort(descending=True, stable=True).tolist():
        x0, y0, x1, y1 = boxes[i]
        if x0 < x1 and y0 < y1:
            found[result["text_labels"][i]].append(Detection((x0, y0, x1, y1), scores[i]))
    return found
