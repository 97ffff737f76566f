"""Random clean scenes: what the autoencoder, the rewards and the detector are trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hn.miniature.captions import Caption
from hn.miniature.renderer import SceneBatch, color_table
from hn.miniature.world import COLOR_NAMES, DIRECTIONS, IMAGE_SIZE, MAX_OBJECTS, SHAPES

GAP = 2.5
"""Least distance in pixels between two objects' circumscribed circles, so that neighbours never merge."""

RELATION_COSINE = 0.66
"""Least cosine between an object's offset and the asked direction: above GenEval's 0.5, for GenEval shrinks offsets."""


def place(radius: Tensor, rng: torch.Generator, direction: Tensor | None = None, tries: int = 1024) -> Tensor:
    """Centres [B, M, 2] of objects with radii [B, M] (0 = absent) that keep `GAP` and stay inside the image.

    All tries are drawn at once and each scene keeps its first valid one (the least violating one should none be valid).
    `direction` [B, 2] asks the first object to lie that way of the second (unit vector; zero asks nothing).
    """
    batch, count = radius.shape
    low, high = radius * 1.12 + 0.5, IMAGE_SIZE - radius * 1.12 - 0.5
    unit = torch.rand(tries, batch, count, 2, generator=rng)
    center = low[None, ..., None] + unit * (high - low)[None, ..., None]
    distance = torch.cdist(center, center)
    needed = (radius[:, :, None] + radius[:, None, :]) * 1.05 + GAP
    needed = needed * ((radius[:, :, None] > 0) & (radius[:, None, :] > 0))
    needed.diagonal(dim1=1, dim2=2).zero_()
    slack = (distance - needed[None]).flatten(2).amin(-1)
    if direction is not None:
        offset = F.normalize(center[:, :, 0] - center[:, :, 1], dim=-1)
        aligned = (offset * direction).sum(-1) - RELATION_COSINE
        slack = torch.where(direction.any(-1)[None], torch.minimum(slack, 10 * aligned), slack)
    slack = torch.where(slack >= 0, torch.inf, slack)
    best = slack.argmax(0)
    return center[best, torch.arange(batch)]


def directions(scenes: SceneBatch) -> Tensor:
    """Unit vectors [B, 2] from the second object of each scene to the first."""
    return F.normalize(scenes.center[:, 0] - scenes.center[:, 1], dim=-1)


def random_radius(count: Tensor, rng: torch.Generator) -> Tensor:
    """Radii [B, 4] in pixels for scenes of `count` [B] objects: the more objects, the smaller."""
    unit = torch.rand(len(count), MAX_OBJECTS, generator=rng)
    low = torch.where(count <= 2, 4.2, 3.8)[:, None]
    high = torch.where(count <= 2, 6.0, 4.8)[:, None]
    present = torch.arange(MAX_OBJECTS)[None] < count[:, None]
    return (low + unit * (high - low)) * present


def random_background(batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Light tints [B, 3] and faint texture amplitudes [B, 4]."""
    tint = 0.68 + 0.18 * torch.rand(batch, 3, generator=rng)
    return tint, 0.06 * torch.randn(batch, 4, generator=rng).clamp(-2, 2)


def random_scenes(batch: int, rng: torch.Generator) -> SceneBatch:
    """Scenes of one to four random objects."""
    count = torch.randint(1, MAX_OBJECTS + 1, (batch,), generator=rng)
    shape = torch.randint(len(SHAPES), (batch, MAX_OBJECTS), generator=rng)
    color = torch.randint(len(COLOR_NAMES), (batch, MAX_OBJECTS), generator=rng)
    radius = random_radius(count, rng)
    return _build(shape, color, radius, place(radius, rng), rng)


def scenes_of(captions: list[Caption], rng: torch.Generator) -> SceneBatch:
    """Clean scenes that fulfil the captions and hold nothing else; colours that a caption leaves open are random."""
    batch = len(captions)
    shape = torch.zeros(batch, MAX_OBJECTS, dtype=torch.long)
    color = torch.randint(len(COLOR_NAMES), (batch, MAX_OBJECTS), generator=rng)
    count, direction = torch.zeros(batch, dtype=torch.long), torch.zeros(batch, 2)
    for row, caption in enumerate(captions):
        kinds = [SHAPES.index(s) for s in caption.shapes] * caption.number
        shape[row, : len(kinds)] = torch.tensor(kinds)
        for slot, name in enumerate(caption.colors):
            color[row, slot] = COLOR_NAMES.index(name)
        count[row] = len(kinds)
        if caption.relation:
            direction[row] = torch.tensor(DIRECTIONS[caption.relation])
    radius = random_radius(count, rng)
    return _build(shape, color, radius, place(radius, rng, direction), rng)


def _build(shape: Tensor, color: Tensor, radius: Tensor, center: Tensor, rng: torch.Generator) -> SceneBatch:
    tint, shading = random_background(len(shape), rng)
    one_hot = F.one_hot(shape, len(SHAPES)).float()
    jitter = 0.05 * torch.randn(*color.shape, 3, generator=rng).clamp(-1.5, 1.5)
    return SceneBatch(center, radius, one_hot, (color_table()[color] + jitter).clamp(0, 1), tint, shading)
