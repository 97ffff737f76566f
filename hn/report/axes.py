"""The geometry of plots: ticks, and positions of labels without overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`.

    Attributes:
        low: value at position 0.
        high: value at position 1.
        ticks: values with a label, between `low` and `high`.
        is_log: whether the axis is logarithmic.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The position of a value: 0 at `low`, 1 at `high`."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def tick_labels(self) -> list[str]:
        """The ticks as text, all with the same number of decimals on a linear axis."""
        if self.is_log:
            return [f"{tick:.10f}".rstrip("0").rstrip(".") if tick < 1 else f"{tick:g}" for tick in self.ticks]
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else abs(self.ticks[0])
        digits = next((d for d in range(12) if abs(round(step, d) - step) < 1e-9 * abs(step)), 12) if step else 0
        return [f"{0.0 if abs(tick) < step / 2 else tick:.{digits}f}" for tick in self.ticks]


def linear_axis(values: Sequence[float], count: int = 5, margin: float = 0.05, include: Sequence[float] = ()) -> Axis:
    """An axis that contains all values, with about `count` ticks at round numbers.

    Args:
        values: finite, at least one.
        count: approximate number of ticks.
        margin: free space at both ends, as a fraction of the range.
        include: values that the axis contains without a margin beyond them, like 0 and 1 for shares.
    """
    low, high = min([*values, *include]), max([*values, *include])
    span = (high - low) or abs(high) or 1.0
    first = low if low in include else low - margin * span
    last = high if high in include else high + margin * span
    raw = (last - first) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    ticks = [round(k * step, 12) for k in range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)]
    return Axis(first, last, tuple(ticks or [low]))


def log_axis(values: Sequence[float], margin: float = 0.08) -> Axis:
    """A logarithmic axis that contains all values (positive), with ticks at 1, 2 and 5 times powers of ten; where
    these are too few, at round numbers."""
    low, high = math.log10(min(values)), math.log10(max(values))
    span = max(high - low, 0.5)
    low, high = low - margin * span, high + margin * span
    factors = (1,) if high - low > 3 else (1, 3) if high - low > 2 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [factor * 10.0**power for power, factor in product(powers, factors)]
    inside = tuple(tick for tick in ticks if 10**low <= tick <= 10**high)
    if len(inside) < 2:  # a narrow range, between two of these
        inside = linear_axis([10**low, 10**high], margin=0.0).ticks
    return Axis(10**low, 10**high, inside, is_log=True)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    bounds: Box,
    radius: float = 7.0,
    obstacles: Sequence[tuple[float, float]] = (),
) -> list[Box]:
    """A box for the label of each point: near the point, within bounds and, if possible, without overlaps.

    Labels are placed greedily, those of the most crowded points first, each at the nearest free position.

    Args:
        points: x and y; y points downwards.
        sizes: width and height of the labels.
        bounds: area for labels.
        radius: half the size of the mark of a point.
        obstacles: x and y of further points that labels should not cover.
    """
    marks = [(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    soft = [(x - 3, y - 3, x + 3, y + 3) for x, y in obstacles]

    def crowd(k: int) -> float:
        return -sum(1 / (1 + math.dist(points[k], other)) for other in points)

    placed: dict[int, Box] = {}
    for k in sorted(range(len(points)), key=crowd):
        candidates = _candidates(points[k], sizes[k], radius)
        reach = _around([box for _, box in candidates])
        hard, light = ([o for o in boxes if overlap(o, reach)] for boxes in ([*placed.values(), *marks], soft))

        def cost(candidate: tuple[float, Box], hard: Sequence[Box] = hard, light: Sequence[Box] = light) -> float:
            distance, box = candidate
            is_beyond = box[0] < bounds[0] or box[1] < bounds[1] or box[2] > bounds[2] or box[3] > bounds[3]
            covered = sum(overlap(box, other) for other in hard)
            return 1e6 * is_beyond + 1e3 * covered + 0.6 * sum(overlap(box, other) for other in light) + distance

        placed[k] = min(candidates, key=cost)[1]
    return [placed[k] for k in range(len(points))]


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box that contains all boxes."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _candidates(point: tuple[float, float], size: tuple[float, float], radius: float) -> list[tuple[float, Box]]:
    """Boxes around a point with their costs: the distance, and a preference for the right, slightly above."""
    (x, y), (width, height) = point, size
    found = []
    for ring in range(10):
        gap = radius + 2 + ring * height * 0.6
        for angle in range(0, 360, 30):
            dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            left = x + gap * dx + (dx - 1) / 2 * width
            top = y + gap * dy + (dy - 1) / 2 * height
            distance = gap + {330: 0.0, 0: 0.5, 30: 1.0, 180: 1.5, 210: 1.5}.get(angle, 2.0)
            found.append((distance, (left, top, left + width, top + height)))
    return found
