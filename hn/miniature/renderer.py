"""Vectorised, anti-aliased renderer of miniature scenes, and the scene as a batch of tensors."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from hn.miniature.world import COLORS, IMAGE_SIZE, SHAPES

_TABLE_SIZE, _TABLE_EXTENT = 129, 3.0


@dataclass
class SceneBatch:
    """B scenes of up to M objects each; all float32 unless stated, lengths in pixels of a 32 x 32 image.

    Attributes:
        center: [B, M, 2] object centres (x right, y down).
        radius: [B, M] half extents; 0 means that the object is absent.
        shape: [B, M, 8] weights over `SHAPES` that sum to 1 (one-hot for a clean scene, a blend for a morph).
        color: [B, M, 3] RGB in [0, 1].
        background: [B, 3] RGB in [0, 1].
        shading: [B, 4] small amplitudes of the background's texture: two linear ramps and two low-frequency waves.
    """

    center: Tensor
    radius: Tensor
    shape: Tensor
    color: Tensor
    background: Tensor
    shading: Tensor

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, index: slice | Tensor) -> SceneBatch:
        return SceneBatch(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> SceneBatch:
        return SceneBatch(*(getattr(self, field.name).to(device) for field in fields(self)))

    @staticmethod
    def cat(batches: list[SceneBatch]) -> SceneBatch:
        return SceneBatch(*(torch.cat([getattr(b, field.name) for b in batches]) for field in fields(SceneBatch)))


def render(scenes: SceneBatch, size: int = IMAGE_SIZE) -> Tensor:
    """Images [B, 3, size, size] float32 in [0, 1]; deterministic, differentiable in every field of the scene.

    Each shape is a signed distance field; coverage is the distance clamped over one pixel, which anti-aliases edges.
    Overlapping objects are painted in their order.
    """
    device, scale = scenes.center.device, size / IMAGE_SIZE
    axis = (torch.arange(size, device=device, dtype=scenes.center.dtype) + 0.5) / scale
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    image = _background(scenes, x / IMAGE_SIZE, y / IMAGE_SIZE)
    table = _distance_table().to(scenes.center)
    count = scenes.center.shape[1]
    for index in range(count):
        radius = scenes.radius[:, index].clamp_min(1e-3)[:, None, None]
        center = scenes.center[:, index]
        u = (x - center[:, 0, None, None]) / radius
        v = (y - center[:, 1, None, None]) / radius
        blend = torch.einsum("bs,shw->bhw", scenes.shape[:, index], table)[:, None]
        grid = torch.stack((u, v), -1) / _TABLE_EXTENT
        distance = F.grid_sample(blend, grid, padding_mode="border", align_corners=True)[:, 0] * radius * scale
        coverage = (0.5 - distance).clamp(0, 1) * (scenes.radius[:, index] > 0.3)[:, None, None]
        image = image + coverage[:, None] * (scenes.color[:, index, :, None, None] - image)
    return image


def _background(scenes: SceneBatch, x: Tensor, y: Tensor) -> Tensor:
    patterns = torch.stack((x - 0.5, y - 0.5, 0.5 * torch.cos(2 * math.pi * x), 0.5 * torch.cos(2 * math.pi * y)))
    shade = torch.einsum("bk,khw->bhw", scenes.shading, patterns)
    return (scenes.background[:, :, None, None] + shade[:, None]).clamp(0, 1)


@functools.cache
def _distance_table() -> Tensor:
    """Signed distances [8, 129, 129] of the unit shapes over [-3, 3]^2, negative inside."""
    axis = torch.linspace(-_TABLE_EXTENT, _TABLE_EXTENT, _TABLE_SIZE, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack((x, y), -1)
    return torch.stack([_signed_distance(shape, points) for shape in SHAPES]).float()


def _signed_distance(shape: str, points: Tensor) -> Tensor:
    norm = points.norm(dim=-1)
    if shape == "circle":
        return norm - 0.92
    if shape == "ring":
        return (norm - 0.75).abs() - 0.24
    return _polygon_distance(torch.tensor(_vertices(shape), dtype=torch.float64), points)


def _vertices(shape: str) -> list[tuple[float, float]]:
    if shape == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    if shape == "diamond":
        return [(0, -1.12), (0.72, 0), (0, 1.12), (-0.72, 0)]
    if shape == "triangle":
        return [(0, -1.0), (1.05, 0.85), (-1.05, 0.85)]
    if shape == "cross":
        a, b = 0.32, 1.0
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    if shape == "star":
        radii = [1.15, 0.46] * 5
        return [(r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5) + 0.08) for k, r in enumerate(radii)]
    turns = [2 * math.pi * k / 48 for k in range(48)]  # heart: the classical sextic curve
    wide = [
        (math.sin(t) ** 3, (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in turns
    ]
    return [(1.05 * x, -1.05 * y - 0.1) for x, y in wide]


def _polygon_distance(vertices: Tensor, points: Tensor) -> Tensor:
    """Exact signed distance of points [..., 2] to a simple polygon, negative inside (even-odd rule)."""
    start, end = vertices, vertices.roll(-1, 0)
    edge = end - start
    offset = points[..., None, :] - start
    along = ((offset * edge).sum(-1) / (edge * edge).sum(-1)).clamp(0, 1)
    distance = (offset - along[..., None] * edge).norm(dim=-1).amin(-1)
    y = points[..., None, 1]
    straddles = (start[:, 1] > y) != (end[:, 1] > y)
    height = torch.where(edge[:, 1] == 0, torch.ones_like(edge[:, 1]), edge[:, 1])
    crossing = start[:, 0] + (y - start[:, 1]) * edge[:, 0] / height
    inside = (straddles & (points[..., None, 0] < crossing)).sum(-1) % 2 == 1
    return torch.where(inside, -distance, distance)


def color_table() -> Tensor:
    """RGB [10, 3] of the named colours, in the order of `COLORS`."""
    return torch.tensor(list(COLORS.values()))
