"""Figures of a comparison for papers, as PNG and PDF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hn.report.axes import log_axis, place_labels
from hn.report.comparison import ComparisonFolder, Metric
from hn.report.styles import Style, styles_of
from hn.utils.files import atomic_write

MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "down": "v", "cross": "P"}
SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,  # text stays text
    "legend.frameon": False,
}


def draw_figures(comparison: ComparisonFolder, folder: Path) -> list[Path]:
    """Write the figures `pareto`, `intervals` and `categories` as PNG and PDF; figures without data are skipped.

    Returns:
        The files.
    """
    styles = styles_of(comparison.methods)
    written = []
    with mpl.rc_context(SETTINGS):
        figures = {
            "pareto": _pareto(comparison, styles),
            "intervals": _intervals(comparison, styles),
            "categories": _categories(comparison, styles),
        }
        for name, figure in figures.items():
            for kind in ("png", "pdf") if figure is not None else ():
                folder.mkdir(parents=True, exist_ok=True)
                save_figure(figure, folder / f"{name}.{kind}")
                written.append(folder / f"{name}.{kind}")
    return written


def save_figure(figure: Figure, path: Path, dpi: int = 200) -> None:
    """Write a figure atomically, as PNG or PDF by the ending of `path`."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi)


def _pareto(comparison: ComparisonFolder, styles: Mapping[str, Style]) -> Figure | None:
    """Scores over seconds per image, a panel for each score."""
    timed = {name: m for name, m in comparison.methods.items() if m.get("seconds_per_image")}
    if not timed or not comparison.metrics:
        return None
    figure = Figure(figsize=(4.3 * len(comparison.metrics), 3.5), layout="constrained")
    panels = figure.subplots(1, len(comparison.metrics), squeeze=False)[0]
    labelled = []
    for axes, metric in zip(panels, comparison.metrics, strict=True):
        points = {n: (m["seconds_per_image"], metric.value(m)) for n, m in timed.items() if metric.value(m) is not None}
        seconds = [x for x, _ in points.values()]
        if metric.key == "reward":
            for name, trace in comparison.traces.items():
                shown = [(p["seconds_per_image"], p["reward"]) for p in trace if p["seconds_per_image"] > 0]
                if name in styles and shown:
                    seconds += [x for x, _ in shown]
                    axes.plot(*zip(*shown, strict=True), color=styles[name].color, linewidth=0.8, alpha=0.6)
        for name, (x, y) in points.items():
            axes.plot(x, y, MARKERS[styles[name].mark], color=styles[name].color, markersize=5)
        axis = log_axis(seconds)
        axes.set_xscale("log")
        axes.set_xlim(axis.low, axis.high)
        axes.xaxis.set_major_locator(FixedLocator(axis.ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        texts = dict(zip(axis.ticks, axis.tick_labels, strict=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _, texts=texts: texts.get(value, f"{value:g}")))
        axes.margins(y=0.1)
        axes.set(xlabel="seconds per image", title=metric.title)
        axes.grid(axis="y", alpha=0.25, linewidth=0.5)
        labelled.append((axes, points))
    figure.draw_without_rendering()  # settles where the axes are, which labels need
    for axes, points in labelled:
        _label(axes, points, styles)
    return figure


def _label(axes: Axes, points: Mapping[str, tuple[float, float]], styles: Mapping[str, Style]) -> None:
    """Write names beside the points without overlaps."""
    per_point = axes.figure.dpi / 72
    height = 7 * 1.35 * per_point
    places = axes.transData.transform(list(points.values()))
    low, high = axes.bbox.min, axes.bbox.max
    flipped = [(x, -y) for x, y in places]  # the labels' boxes count downwards
    sizes = [(len(styles[name].label) * 4.1 * per_point, height) for name in points]
    boxes = place_labels(flipped, sizes, (low[0], -high[1], high[0], -low[1]), radius=3.5 * per_point)
    for name, (x, y), (left, top, right, bottom) in zip(points, flipped, boxes, strict=True):
        near = (min(max(x, left), right), min(max(y, top), bottom))
        to_data = axes.transData.inverted().transform
        if abs(near[0] - x) + abs(near[1] - y) > 9 * per_point:
            ends = to_data([(x, -y), (near[0], -near[1])])
            axes.plot(*ends.T, color="0.6", linewidth=0.4, zorder=1)
        spot = to_data((left, -(top + bottom) / 2))
        axes.text(*spot, styles[name].label, fontsize=7, va="center", ha="left", color="0.15")


def _intervals(comparison: ComparisonFolder, styles: Mapping[str, Style]) -> Figure | None:
    """Differences to the base with paired 95 % intervals, a panel for each score."""
    base = comparison.methods["base"]
    names = [name for name in comparison.methods if name != "base"]
    metrics = [m for m in comparison.metrics if m.value(base) is not None]
    if not names or not metrics:
        return None
    figure = Figure(figsize=(1.8 + 2.1 * len(metrics), 1.1 + 0.2 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        axes.axvline(0, color="0.6", linewidth=0.6)
        for row, name in enumerate(names):
            value, interval = metric.value(comparison.methods[name]), metric.delta_interval(comparison.methods[name])
            if value is None:
                continue
            if interval is not None:
                axes.plot(interval, [row, row], color=styles[name].color, linewidth=1.2)
            axes.plot(
                value - metric.value(base),
                row,
                MARKERS[styles[name].mark],
                color=styles[name].color,
                markersize=4,
            )
        axes.set_yticks(range(len(names)), [styles[name].label for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_title(metric.title)
        axes.set_xlabel("difference to the base")
        axes.locator_params(axis="x", nbins=4)
    return figure


def _categories(comparison: ComparisonFolder, styles: Mapping[str, Style]) -> Figure | None:
    """GenEval (or the trained reward, if there is no GenEval) in each category, one panel each."""
    metric = next((m for m in reversed(comparison.metrics) if _has_categories(comparison, m)), None)
    categories = [name for name in comparison.categories if metric is not None and _of(comparison, metric, name)]
    if metric is None or not categories:
        return None
    columns = min(3, len(categories))
    lines = -(-len(categories) // columns)
    names = list(comparison.methods)
    size = (1.8 + 2.1 * columns, 0.4 + lines * (0.6 + 0.17 * len(names)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True).flat
    for axes, category in zip(panels, categories, strict=False):
        for name, entry in _of(comparison, metric, category).items():
            row, style, interval = names.index(name), styles[name], metric.interval(entry)
            axes.barh(row, metric.value(entry), color=style.color, alpha=0.75, height=0.7)
            if interval is not None:
                axes.plot(interval, [row, row], color="0.15", linewidth=0.7)
        axes.set_yticks(range(len(names)), [styles[name].label for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_title(category.replace("_", " "))
        if metric.key == "geneval":
            axes.set_xlim(0, 1)
    for axes in list(panels)[len(categories) :]:
        axes.set_visible(False)
    figure.supxlabel("share of correct images" if metric.key == "geneval" else metric.title, fontsize=8)
    return figure


def _has_categories(comparison: ComparisonFolder, metric: Metric) -> bool:
    return any(_of(comparison, metric, name) for name in comparison.categories)


def _of(comparison: ComparisonFolder, metric: Metric, category: str) -> dict[str, dict]:
    """Entries of one category by method, if they have the metric."""
    entries = {name: (method.get("categories") or {}).get(category) for name, method in comparison.methods.items()}
    return {name: entry for name, entry in entries.items() if entry and metric.value(entry) is not None}
