"""An auxiliary task for the reward's towers: read off an embedding what it embeds.

Contrastive learning alone takes long to find relations and bindings. While it trains, a linear head on the joint
embedding, dropped afterwards, tells of an image and of a caption alike which shapes there are, in which colour, where
they lie to each other and how many there are; so both towers put that into the embedding, and the contrastive loss
aligns it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hn.miniature.captions import Caption
from hn.miniature.renderer import SceneBatch, color_table
from hn.miniature.world import COLOR_NAMES, DIRECTIONS, MAX_OBJECTS, SHAPES


@dataclass
class Content:
    """What B images or captions contain.

    Attributes:
        present: [B, 8] 1 for every shape that occurs.
        color: [B, 8] index of the shape's colour; -1 where it is not one known colour.
        offset: [B, 8, 2] direction of the shape from the middle between two shapes; zero where there is none.
        number: [B] objects, minus one.
    """

    present: Tensor
    color: Tensor
    offset: Tensor
    number: Tensor

    def to(self, device: torch.device) -> Content:
        return Content(*(value.to(device) for value in (self.present, self.color, self.offset, self.number)))


def content_of_scenes(scenes: SceneBatch) -> Content:
    """Content of clean scenes; colours and offsets of shapes that occur once."""
    there = scenes.radius > 0
    count = torch.einsum("bm,bms->bs", there.float(), scenes.shape)
    color = torch.cdist(scenes.color, color_table()[None].expand(len(scenes), -1, -1)).argmin(-1)
    slot = (scenes.shape * there[..., None]).argmax(1)
    middle = (scenes.center * there[..., None]).sum(1) / there.sum(1, keepdim=True)
    away = F.normalize(scenes.center - middle[:, None], dim=-1)
    two = (there.sum(1) == 2)[:, None, None] & (count == 1)[..., None]
    offset = away.gather(1, slot[..., None].expand(-1, -1, 2)) * two
    return Content((count > 0).float(), color.gather(1, slot).masked_fill(count != 1, -1), offset, there.sum(1) - 1)


def content_of_captions(captions: list[Caption]) -> Content:
    """Content that captions speak of; the offset of a relation is its direction."""
    batch = len(captions)
    present, offset = torch.zeros(batch, len(SHAPES)), torch.zeros(batch, len(SHAPES), 2)
    color, number = torch.full((batch, len(SHAPES)), -1), torch.zeros(batch, dtype=torch.long)
    for row, caption in enumerate(captions):
        kinds = [SHAPES.index(shape) for shape in caption.shapes]
        present[row, kinds] = 1
        number[row] = caption.number * len(kinds) - 1
        for kind, name in zip(kinds, caption.colors, strict=False):
            color[row, kind] = COLOR_NAMES.index(name)
        if caption.relation:
            direction = torch.tensor(DIRECTIONS[caption.relation])
            offset[row, kinds[0]], offset[row, kinds[1]] = direction, -direction
    return Content(present, color, offset, number)


class ContentHead(nn.Linear):
    """A linear reading of embeddings [B, D]; `loss` is a mean over the batch."""

    def __init__(self, width: int) -> None:
        super().__init__(width, len(SHAPES) * (1 + len(COLOR_NAMES) + 2) + MAX_OBJECTS)

    def loss(self, embedding: Tensor, content: Content) -> Tensor:
        """How badly normalised embeddings tell their content."""
        out = self(embedding * embedding.shape[1] ** 0.5)
        kinds, colors = len(SHAPES), len(COLOR_NAMES)
        present, color, offset, number = out.split([kinds, kinds * colors, kinds * 2, MAX_OBJECTS], dim=1)
        loss = F.binary_cross_entropy_with_logits(present, content.present)
        loss = loss + 0.5 * F.cross_entropy(color.reshape(-1, colors), content.color.flatten(), ignore_index=-1)
        known = (content.offset != 0).any(-1)
        loss = loss + 2 * F.smooth_l1_loss(offset.view(-1, kinds, 2)[known], content.offset[known], beta=0.3)
        return loss + 0.5 * F.cross_entropy(number, content.number)
