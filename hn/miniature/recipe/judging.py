"""What the stages that train a reward share: captions with their scenes, and flips that are false of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hn.miniature.captions import Caption, judging_pools, sample_caption
from hn.miniature.recipe.degrade import degrade
from hn.miniature.recipe.stage import Stage
from hn.miniature.renderer import SceneBatch, color_table, render
from hn.miniature.scenes import directions, scenes_of
from hn.miniature.world import COLOR_NAMES, IMAGE_SIZE, SHAPES

TAG_WEIGHTS = {"single_object": 1, "two_object": 3, "counting": 3, "colors": 2, "position": 7, "color_attr": 5}
PATCH = 4
PATCH_LABELS = len(SHAPES) + 1 + len(COLOR_NAMES) + 1
"""What may cover a patch: a shape or none, then a colour or none."""


@dataclass
class Judged:
    """A batch to learn judging from.

    Attributes:
        captions: B captions; the second half are flips of the first.
        scenes: B scenes that fulfil them.
        images: [B, 3, 32, 32] in [0, 1], degraded, on the stage's device.
        texts: B captions in words.
        flips: B * negatives texts that are false of their image, as far as `valid` says.
        valid: [B, negatives] whether there is such a text.
    """

    captions: list[Caption]
    scenes: SceneBatch
    images: Tensor
    texts: list[str]
    flips: list[str]
    valid: Tensor


class JudgingStage(Stage):
    """A stage whose batches are captions with scenes, half of the captions flips of the other half, so that hard
    negatives stand on the image side too. Captions and flips are those of `judging_pools` alone.

    Args:
        negatives: flipped texts that every image meets.
        options: as for every stage.
    """

    def __init__(self, negatives: int, **options) -> None:
        super().__init__(**options)
        self.negatives = negatives
        self.pools = judging_pools()
        self.known = {caption for pool in self.pools.values() for caption in pool}

    def draw(self, rng: torch.Generator, words: random.Random) -> Judged:
        """The batch that the two generators give."""
        originals = [sample_caption(words, self.pools, TAG_WEIGHTS) for _ in range(self.batch_size // 2)]
        captions = originals + [words.choice(self._known(caption.flips(words)) or [caption]) for caption in originals]
        scenes = scenes_of(captions, rng)
        images = degrade(render(scenes), rng).to(self.device)
        texts = [caption.paraphrase(words) for caption in captions]
        return Judged(captions, scenes, images, texts, *self._flips(captions, scenes, words))

    def _flips(self, captions: list[Caption], scenes: SceneBatch, words: random.Random) -> tuple[list[str], Tensor]:
        """`negatives` flipped texts a caption (flattened), and which the scene does contradict [B, negatives]."""
        texts: list[str] = []
        valid = torch.zeros(len(captions), self.negatives, dtype=torch.bool)
        for row, (caption, direction) in enumerate(zip(captions, directions(scenes).tolist(), strict=True)):
            flips = self._known(caption.contradicted_flips(words, direction))
            flips = words.sample(flips, min(self.negatives, len(flips)))
            valid[row, : len(flips)] = True
            texts += [flip.paraphrase(words) for flip in flips] + [caption.text()] * (self.negatives - len(flips))
        return texts, valid

    def _known(self, flips: list[Caption]) -> list[Caption]:
        return [flip for flip in flips if flip in self.known]

    def dense_loss(self, logits: Tensor, scenes: SceneBatch) -> Tensor:
        """How badly [B, 64, PATCH_LABELS] tell what covers each patch."""
        shape, color = patch_labels(scenes)
        cut = len(SHAPES) + 1
        shape_loss = F.cross_entropy(logits[..., :cut].flatten(0, 1), shape.flatten().to(self.device))
        return shape_loss + F.cross_entropy(logits[..., cut:].flatten(0, 1), color.flatten().to(self.device))


def patch_labels(scenes: SceneBatch) -> tuple[Tensor, Tensor]:
    """Shape and colour [B, 64] of the object that covers each patch's centre; the last index of either means none."""
    axis = (torch.arange(IMAGE_SIZE // PATCH) + 0.5) * PATCH
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack((x, y), -1).view(1, -1, 1, 2)
    covered = (points - scenes.center[:, None]).norm(dim=-1) < scenes.radius[:, None] * 1.1
    index = covered.float().argmax(-1)
    none = ~covered.any(-1)
    shape = scenes.shape.argmax(-1).gather(1, index).masked_fill(none, len(SHAPES))
    nearest = torch.cdist(scenes.color, color_table()[None].expand(len(scenes), -1, -1)).argmin(-1)
    return shape, nearest.gather(1, index).masked_fill(none, len(COLOR_NAMES))
