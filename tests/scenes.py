"""Scenes written down by hand, and what a perfect detector would find in a scene."""

import torch

from hn.evaluation.geneval import Detection
from hn.miniature.renderer import SceneBatch, color_table
from hn.miniature.world import COLOR_NAMES, SHAPES

Found = list[dict[str, list[Detection]]]


def scene(*objects, background=(1.0, 1.0, 1.0), shading=(0.0, 0.0, 0.0, 0.0)) -> SceneBatch:
    """One scene of objects ((x, y), radius, shape name, RGB), on white unless told otherwise."""
    center, radius, shape, color = zip(*objects, strict=True)
    return SceneBatch(
        torch.tensor([center], dtype=torch.float32),
        torch.tensor([radius], dtype=torch.float32),
        torch.stack([torch.eye(len(SHAPES))[SHAPES.index(name)] for name in shape])[None],
        torch.tensor([color], dtype=torch.float32),
        torch.tensor([background]),
        torch.tensor([shading]),
    )


def ground_truth(scenes: SceneBatch) -> Found:
    """The detections of a perfect detector on scenes: box, class, nearest named colour, score 1."""
    kinds = scenes.shape.argmax(-1).tolist()
    colors = torch.cdist(scenes.color, color_table().expand(len(scenes), -1, -1)).argmin(-1).tolist()
    found: Found = []
    for index, (centers, radii) in enumerate(zip(scenes.center.tolist(), scenes.radius.tolist(), strict=True)):
        detections: dict[str, list[Detection]] = {}
        for slot, ((x, y), r) in enumerate(zip(centers, radii, strict=True)):
            if r > 0:
                seen = Detection((x - r, y - r, x + r, y + r), 1.0, COLOR_NAMES[colors[index][slot]])
                detections.setdefault(SHAPES[kinds[index][slot]], []).append(seen)
        found.append(detections)
    return found
