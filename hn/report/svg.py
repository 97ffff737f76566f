"""SVG plots of the page, which use its CSS colours and marks: score against time, and training curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise

from hn.report.axes import Axis, linear_axis, log_axis, place_labels
from hn.report.styles import Style

Points = Sequence[tuple[float, float]]

_CHARACTER, _LINE = 6.7, 15.0  # width of a character and height of a label at 12 pixels, estimated generously


def trade_off(
    points: Mapping[str, tuple[float, float]],
    styles: Mapping[str, Style],
    y_title: str,
    traces: Mapping[str, Points] | None = None,
    width: int = 1060,
    height: int = 470,
    labelled: bool = True,
) -> str:
    """A score over seconds per image (logarithmic), with the Pareto frontier of the methods.

    Args:
        points: seconds per image, positive, and the score, by method.
        styles: of the methods.
        y_title: what the score is.
        traces: seconds and score for each budget of a search, by method.
        width: of the drawing.
        height: of the drawing.
        labelled: write names beside the points.
    """
    traces = traces or {}
    left, top, right, bottom = 66.0, 16.0, width - 16.0, height - 46.0
    every = [*points.values(), *(point for trace in traces.values() for point in trace)]
    x_axis, y_axis = log_axis([x for x, _ in every]), linear_axis([y for _, y in every], margin=0.08)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return left + x_axis(point[0]) * (right - left), bottom - y_axis(point[1]) * (bottom - top)

    parts = [_frame(x_axis, y_axis, (left, top, right, bottom), "seconds per image", y_title)]
    frontier = [at(point) for point in _frontier(points.values())]
    steps = [*(corner for a, b in pairwise(frontier) for corner in (a, (b[0], a[1]))), *frontier[-1:]]
    if len(frontier) > 1:
        parts.append(f'<polyline class="frontier" points="{_path(steps)}"/>')
    for name, trace in traces.items():
        if name in styles and len(trace) > 1:
            parts.append(f'<polyline class="trace c{styles[name].slot}" points="{_path(map(at, trace))}"/>')
    places = {name: at(point) for name, point in points.items()}
    if labelled:
        sizes = [(_CHARACTER * len(styles[name].label) + 4, _LINE) for name in places]
        obstacles = [
            place for line in (*(list(map(at, trace)) for trace in traces.values()), steps) for place in _along(line)
        ]
        boxes = place_labels(list(places.values()), sizes, (left + 2, top, right, bottom - 2), obstacles=obstacles)
        for (name, (x, y)), (x0, y0, x1, y1) in zip(places.items(), boxes, strict=True):
            near = (min(max(x, x0), x1), min(max(y, y0), y1))
            if abs(near[0] - x) + abs(near[1] - y) > 20:
                parts.append(f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{near[0]:.1f}" y2="{near[1]:.1f}"/>')
            label = escape(styles[name].label)
            parts.append(
                f'<text class="label" x="{x0 + 2:.1f}" y="{y1 - 4:.1f}" data-method="{escape(name)}">{label}</text>'
            )
    for name, (x, y) in places.items():
        seconds, value = points[name]
        title = f"{styles[name].label}: {value:.4f} at {seconds:.3g} s"
        parts.append(
            f'<g class="c{styles[name].slot}"><title>{escape(title)}</title>'
            f'<use href="#m-{styles[name].mark}" x="{x - 7:.1f}" y="{y - 7:.1f}" width="14" height="14"/></g>'
        )
    return _svg(parts, width, height, f"{y_title} against seconds per image")


def curve_panel(lines: Mapping[str, Points], styles: Mapping[str, Style], title: str, base: float | None = None) -> str:
    """A score over the updates of several trainings.

    Args:
        lines: update and value, by method.
        styles: of the methods.
        title: what the score is.
        base: value of the base generator, drawn as a dashed line.
    """
    width, height = 340, 230
    box = left, top, right, bottom = 46.0, 14.0, width - 12.0, height - 40.0
    points = [point for line in lines.values() for point in line]
    x_axis = linear_axis([x for x, _ in points], count=4, margin=0.03)
    y_axis = linear_axis([*(y for _, y in points), *([] if base is None else [base])], count=4, margin=0.08)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return left + x_axis(point[0]) * (right - left), bottom - y_axis(point[1]) * (bottom - top)

    parts = [_frame(x_axis, y_axis, box, "update", "")]
    if base is not None:
        y = at((points[0][0], base))[1]
        parts.append(f'<line class="base c0" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
    for name, line in lines.items():
        places = [at(point) for point in line]
        parts.append(f'<polyline class="curve c{styles[name].slot}" points="{_path(places)}"/>')
        for (x, y), (step, value) in zip(places, line, strict=True):
            mark = f'<use href="#m-{styles[name].mark}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
            text = escape(f"{styles[name].label}, update {step:g}: {value:.4f}")
            parts.append(f'<g class="c{styles[name].slot}"><title>{text}</title>{mark}</g>')
    return _svg(parts, width, height, f"{title} over training")


def _along(line: Points, gap: float = 8.0) -> Iterator[tuple[float, float]]:
    """Points on a line, so close that no label fits between them."""
    for a, b in pairwise(line):
        count = int(max(abs(b[0] - a[0]), abs(b[1] - a[1])) / gap) + 1
        yield from ((a[0] + (b[0] - a[0]) * k / count, a[1] + (b[1] - a[1]) * k / count) for k in range(count))


def _frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto-optimal points (fast and good), sorted by seconds."""
    best: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def _frame(x_axis: Axis, y_axis: Axis, box: tuple[float, float, float, float], x_title: str, y_title: str) -> str:
    left, top, right, bottom = box
    parts = []
    for tick, text in zip(y_axis.ticks, y_axis.tick_labels, strict=True):
        y = bottom - y_axis(tick) * (bottom - top)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick, text in zip(x_axis.ticks, x_axis.tick_labels, strict=True):
        x = left + x_axis(tick) * (right - left)
        parts.append(f'<line class="axis" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    middle = (left + right) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{bottom + 35}" text-anchor="middle">{escape(x_title)}</text>')
    if y_title:
        place = f'transform="translate(12 {(top + bottom) / 2}) rotate(-90)"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{escape(y_title)}</text>')
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _svg(parts: Sequence[str], width: int, height: int, about: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(about)}">{"".join(parts)}</svg>'
    )
