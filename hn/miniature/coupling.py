"""The procedural sampler the miniature's generator is distilled from: a deterministic map (noise, caption) -> scene.

It takes the place of a real distilled model's multi-step diffusion teacher, and it is built to fail as real few-step
generators do: *the caption decides what is painted, the noise decides where*, and the caption's wishes about
numbers, second objects and bindings are obeyed only where the noise allows; relations are not obeyed at all. The
failure rates are a design choice, stated in `Obedience`.

Every rule reads smoothed noise at a place (objects stand on its maxima; their size, colour and binding hang on other
channels there), which suits the translation-equivariant network that has to learn it, and every threshold is a smooth
ramp: near it objects are half grown or blended, so that a one-step regression can follow without blur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hn.miniature.captions import Caption
from hn.miniature.renderer import SceneBatch, color_table
from hn.miniature.world import COLOR_NAMES, IMAGE_SIZE, MAX_OBJECTS, SHAPES

NOISE_SHAPE = (8, 8, 8)
CELL = IMAGE_SIZE // NOISE_SHAPE[-1]
FIRST, SECOND, BINDING, SIZE, HUE_X, HUE_Y, TINT_X, TINT_Y = range(8)
"""What each noise channel decides: where the first and the second object stand, whether colours go to the right object,
how large objects are, the colour that a caption leaves open, the background."""


@dataclass(frozen=True)
class Obedience:
    """Thresholds on smoothed noise (unit variance); a rule is a ramp of half width `softness` around its threshold.

    Attributes:
        second_object: the second object takes the first one's class where the peak it stands on is lower than this.
        binding: an object takes the other one's colour where the binding channel is higher than this.
        missing: the n-th of n counted objects vanishes on a peak lower than this, for n = 2, 3, 4.
        extra: one more than the asked number appears on a peak higher than this, for n = 2, 3.
        softness: half width of every ramp.
    """

    second_object: float = 1.0
    binding: float = 0.6
    missing: tuple[float, float, float] = (0.75, 0.35, -0.1)
    extra: tuple[float, float] = (0.75, 0.5)
    softness: float = 0.15


OBEDIENCE = Obedience()


def smooth(noise: Tensor) -> Tensor:
    """Noise [B, C, 8, 8] ~ N(0, I) -> fields of unit variance, smoothed by a 5 x 5 binomial kernel."""
    channels = noise.shape[1]
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=noise.device)
    kernel = torch.outer(row, row).expand(channels, 1, 5, 5)
    power = F.conv2d(torch.ones_like(noise[:1, :1]), kernel[:1].square(), padding=2)
    return F.conv2d(noise.float(), kernel, padding=2, groups=channels) / power.sqrt()


def couple(noise: Tensor, captions: list[Caption], obedience: Obedience = OBEDIENCE) -> SceneBatch:
    """Scenes for noise [B, 8, 8, 8] and B captions; deterministic."""
    field = smooth(noise)
    ask = _asked(captions, noise.device)
    counted, pair, many = ask["counted"], ask["pair"], ask["number"] > 2

    # Where: greedy maxima of the first object's channel; a second kind of object stands on its own channel's.
    reach = torch.where(many, 4.4, torch.where(counted, 4.9, 5.6))
    heat = field[:, FIRST].flatten(1)
    other = torch.where(pair[:, None], field[:, SECOND].flatten(1), heat)
    center, height = _stand(heat, other, reach)
    here = _read(field, center)
    radius = torch.where(many, 3.7, torch.where(counted, 4.3, 4.9))[:, None] + 0.3 * here[:, SIZE].clamp(-2, 2)

    # How many: the last asked object and one beyond it depend on how high their peaks are.
    slot = torch.arange(MAX_OBJECTS, device=noise.device)
    presence = (slot < ask["number"][:, None]).float()
    index = (ask["number"] - 2).clamp(0, 2)
    missing = torch.tensor(obedience.missing, device=noise.device)[index]
    extra = torch.tensor((*obedience.extra, math.inf), device=noise.device)[index]
    last, beyond = slot == (ask["number"] - 1)[:, None], slot == ask["number"][:, None]
    presence = torch.where(counted[:, None] & last, _ramp(height, missing[:, None], obedience), presence)
    presence = torch.where(counted[:, None] & beyond, _ramp(height, extra[:, None], obedience), presence)
    presence = presence * (height > -math.inf)

    # What: the second class may be forgotten, colours may go to the wrong object or are left to the noise.
    remembered = _ramp(height[:, 1], obedience.second_object, obedience)
    second = torch.lerp(ask["shape"][:, 0], ask["shape"][:, 1], torch.where(pair, remembered, 1.0)[:, None])
    shape = torch.cat((ask["shape"][:, :1], second[:, None], ask["shape"][:, 2:]), 1)
    leak = _ramp(here[:, BINDING], obedience.binding, obedience) * ask["bound"][:, None]
    asked = torch.lerp(ask["color"], ask["color"][:, [1, 0, 2, 3]], leak[..., None])
    color = torch.where(ask["colored"][:, None, None], asked, _free_color(here[:, HUE_X], here[:, HUE_Y]))

    tint = field[:, [TINT_X, TINT_Y]].mean((2, 3))
    background = 0.77 + 0.16 * torch.stack((tint[:, 0], -0.5 * (tint[:, 0] + tint[:, 1]), tint[:, 1]), 1).clamp(
        -0.6, 0.6
    )
    return SceneBatch(
        center, radius * presence, shape, color, background, torch.zeros_like(background[:, :1]).expand(-1, 4)
    )


def _stand(heat: Tensor, other: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Centres [B, 4, 2] in pixels and peak heights [B, 4] (-inf where no room is left) of greedily chosen maxima.

    The first maximum is `heat`'s, the others `other`'s, outside the room that earlier objects of extent `reach` [B]
    take.
    Each centre is drawn from its cell's middle towards higher neighbours.
    """
    size = NOISE_SHAPE[-1]
    axis = torch.arange(size, device=heat.device)
    y, x = (value.flatten() for value in torch.meshgrid(axis, axis, indexing="ij"))
    place = (torch.stack((x, y), 1) + 0.5) * CELL
    inner = ((x > 0) & (x < size - 1) & (y > 0) & (y < size - 1)).expand(len(heat), -1)
    free, centers, heights = inner, [], []
    for number in range(MAX_OBJECTS):
        values = (heat if number == 0 else other).masked_fill(~free, -math.inf)
        height, cell = values.max(1)
        around = (place - place[cell][:, None]).abs().amax(-1) <= CELL
        weight = (2 * values).masked_fill(~around, -math.inf).softmax(1).nan_to_num(0)
        center = torch.where(
            (height > -math.inf)[:, None], weight @ place, torch.full_like(place[cell], IMAGE_SIZE / 2)
        )
        centers.append(center)
        heights.append(height)
        free = free & ((place - center[:, None]).norm(dim=-1) > 2 * reach[:, None] + 1)
    return torch.stack(centers, 1), torch.stack(heights, 1)


def _read(field: Tensor, center: Tensor) -> Tensor:
    """Values [B, C, M] of fields [B, C, 8, 8] at centres [B, M, 2] in pixels, bilinearly."""
    grid = (center / IMAGE_SIZE * 2 - 1)[:, :, None]
    return F.grid_sample(field, grid, padding_mode="border", align_corners=False)[..., 0]


def _ramp(value: Tensor, threshold: Tensor | float, obedience: Obedience) -> Tensor:
    """Smoothly from 0 to 1 as the value passes the threshold."""
    return _smoothstep(((value - threshold) / obedience.softness + 1) / 2)


def _smoothstep(value: Tensor) -> Tensor:
    value = value.clamp(0, 1)
    return value * value * (3 - 2 * value)


def _asked(captions: list[Caption], device: torch.device) -> dict[str, Tensor]:
    """What the captions ask for, as tensors over B captions and 4 slots."""
    batch = len(captions)
    shape, color = torch.zeros(batch, MAX_OBJECTS, len(SHAPES)), torch.zeros(batch, MAX_OBJECTS, 3)
    number = torch.zeros(batch, dtype=torch.long)
    counted, pair, bound, colored = (torch.zeros(batch, dtype=torch.bool) for _ in range(4))
    table = color_table()
    for row, caption in enumerate(captions):
        kinds = len(caption.shapes)
        for slot in range(MAX_OBJECTS):
            shape[row, slot, SHAPES.index(caption.shapes[slot % kinds])] = 1
            if caption.colors:
                color[row, slot] = table[COLOR_NAMES.index(caption.colors[slot % kinds])]
        counted[row] = caption.tag == "counting"
        number[row] = caption.number if counted[row] else kinds
        pair[row], bound[row], colored[row] = kinds == 2, len(caption.colors) == 2, bool(caption.colors)
    asked = {"shape": shape, "color": color, "number": number, "counted": counted, "pair": pair, "bound": bound}
    return {name: value.to(device) for name, value in {**asked, "colored": colored}.items()}


_LOOP = ("red", "orange", "yellow", "green", "blue", "purple", "pink")


def _free_color(x: Tensor, y: Tensor) -> Tensor:
    """Colours [B, M, 3] that a caption leaves open: the angle of two values walks a loop of chromatic colours."""
    loop = torch.stack([color_table()[COLOR_NAMES.index(name)] for name in _LOOP]).to(x.device)
    turn = (torch.atan2(y, x) / (2 * math.pi)) % 1.0 * len(_LOOP)
    index = turn.floor().long() % len(_LOOP)
    weight = _smoothstep((turn - turn.floor() - 0.3) / 0.4)
    return torch.lerp(loop[index], loop[(index + 1) % len(_LOOP)], weight[..., None])
