"""The miniature's object detector: class, colour, box and score of every object, for GenEval-style verdicts.

It is never used as a reward.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hn.evaluation.geneval import Detection

STRIDE = 4


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class GridDetector(nn.Module):
    """A small convolutional network that looks for one object of each class in every 4 x 4 pixel cell.

    Args:
        classes: class names, in the order of the score channels.
        colors: colour names, in the order of the colour channels.
        width: channels of the first stage; the second has twice as many.
    """

    def __init__(self, classes: Sequence[str], colors: Sequence[str], width: int = 32) -> None:
        super().__init__()
        self.classes, self.colors, self.width = tuple(classes), tuple(colors), width
        outputs = len(self.classes) + len(self.colors) + 3
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            _Residual(width),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            _Residual(2 * width),
            _Residual(2 * width),
            _Residual(2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, outputs, 1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 3, H, W] in [0, 1] -> class logits [B, K, h, w], colour logits [B, C, h, w], and per cell the
        centre's offset from the cell's middle in cells and the log radius in pixels [B, 3, h, w].

        Computed in the weights' data type, whatever the images' is, and also under autocast, so that verdicts do not
        depend on the caller's precision."""
        with torch.autocast(images.device.type, enabled=False):
            out = self.body(images.to(self.body[0].weight.dtype) * 2 - 1)
        return torch.split(out, [len(self.classes), len(self.colors), 3], dim=1)

    @torch.no_grad()
    def detect(self, images: Tensor, floor: float = 0.05) -> list[dict[str, list[Detection]]]:
        """For each image the detections of every class, best first; boxes (x0, y0, x1, y1) in pixels.

        Of detections of one class whose centres lie within one cell's width, the best one stays.
        """
        logits, color, geometry = self(images)
        batch, _, rows, columns = logits.shape
        score = logits.sigmoid().flatten(2)
        y, x = torch.meshgrid(
            torch.arange(rows, device=images.device), torch.arange(columns, device=images.device), indexing="ij"
        )
        cell = torch.stack((x, y)).float().flatten(1)
        center = (cell + 0.5 + geometry[:, :2].flatten(2)) * STRIDE
        radius = geometry[:, 2].flatten(1).exp()
        near = torch.cdist(center.mT, center.mT) < 1.2 * STRIDE
        mine, yours = score[:, :, :, None], score[:, :, None, :]
        first = torch.ones(rows * columns, rows * columns, dtype=torch.bool, device=images.device).tril(-1)
        better = (yours > mine) | ((yours == mine) & first)  # of equals, as scores of 1 are, the first
        score = score.masked_fill((better & near[:, None]).any(-1), 0)
        names = color.argmax(1).flatten(1)
        found: list[dict[str, list[Detection]]] = [{name: [] for name in self.classes} for _ in range(batch)]
        hits = (score > floor).nonzero()
        values = score[tuple(hits.T)]
        order = values.argsort(descending=True, stable=True)
        image, kind, place = hits[order].T
        cx, cy = center[image, 0, place], center[image, 1, place]
        r = radius[image, place]
        boxes = torch.stack((cx - r, cy - r, cx + r, cy + r), 1).tolist()
        rows_out = zip(
            image.tolist(), kind.tolist(), boxes, values[order].tolist(), names[image, place].tolist(), strict=True
        )
        for index, k, box, value, c in rows_out:
            found[index][self.classes[k]].append(Detection(tuple(box), value, self.colors[c]))
        return found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` (half precision)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"classes": self.classes, "colors": self.colors, "width": self.width}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(
            {name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors"
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GridDetector:
        """Load what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: the folder has no detector.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"no detector in {folder}: config.json is missing; `make miniature` builds the miniature's"
            )
        detector = cls(**json.loads((folder / "config.json").read_text()))
        detector.load_state_dict(
            {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
        )
        return detector.eval().requires_grad_(False)
