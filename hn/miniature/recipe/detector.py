"""The detector, trained on clean scenes whose images are blurred and noisy."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from hn.evaluation.detectors.miniature import STRIDE, GridDetector
from hn.miniature.recipe.degrade import degrade
from hn.miniature.recipe.stage import Stage
from hn.miniature.renderer import SceneBatch, color_table, render
from hn.miniature.scenes import random_scenes
from hn.miniature.world import COLOR_NAMES, IMAGE_SIZE, SHAPES

REACH = 0.75
"""In cells; more than half, so that at least one cell lies well within."""


class DetectorStage(Stage):
    """Binary cross entropy for the classes of every cell; colour and box where an object's centre is near.

    The detector knows every combination of colour and shape, held out or not.
    """

    def __init__(self, steps: int = 3500, batch_size: int = 96, learning_rate: float = 2e-3, seed: int = 4) -> None:
        super().__init__(steps, batch_size, learning_rate, seed)
        self.detector = GridDetector(SHAPES, COLOR_NAMES)

    def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
        scenes = random_scenes(self.batch_size, rng)
        images = degrade(render(scenes), rng).to(self.device)
        logits, color, geometry = self.detector(images)
        heat, where, color_index, target = detection_targets(scenes)
        present = where[:, 0].numel()
        image, slot_y, slot_x = (index.to(self.device) for index in where.T)
        score = F.binary_cross_entropy_with_logits(logits, heat.to(self.device), reduction="sum") / present
        color_loss = F.cross_entropy(color[image, :, slot_y, slot_x], color_index.to(self.device))
        box = F.smooth_l1_loss(geometry[image, :, slot_y, slot_x], target.to(self.device), beta=0.1)
        return {
            "loss": score + color_loss + 2 * box,
            "score": score.detach(),
            "color": color_loss.detach(),
            "box": box.detach(),
        }


def detection_targets(scenes: SceneBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class heat map [B, K, 8, 8], cells of the objects [N, 3] (image, row, column), colours [N], geometry [N, 3].

    All cells answer for an object whose middle lies within `REACH` of its centre: beside a cell's border the score of
    one cell alone could be no surer than a coin's toss. The detector keeps the best of them.
    """
    size = IMAGE_SIZE // STRIDE
    axis = torch.arange(size) + 0.5
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    offset = scenes.center[:, :, None, None] / STRIDE - cells  # [B, M, 8, 8, 2]
    covered = (offset.abs().amax(-1) < REACH) & (scenes.radius > 0)[..., None, None]
    image, slot, row, column = covered.nonzero(as_tuple=True)
    heat = torch.zeros(len(scenes), scenes.shape.shape[-1], size, size)
    heat[image, scenes.shape[image, slot].argmax(-1), row, column] = 1
    color = torch.cdist(scenes.color[image, slot], color_table()).argmin(-1)
    geometry = torch.cat((offset[image, slot, row, column], scenes.radius[image, slot].log()[:, None]), 1)
    return heat, torch.stack((image, row, column), 1), color, geometry
