"""What a study measured: results.json, results.csv, a table and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import offset_copy
from rich.table import Table

from hn.cli.study.definition import TITLES, Axis, Study
from hn.cli.study.seeds import SEED, mean_and_interval
from hn.report.cautions import unequal_budgets
from hn.report.curves import plot_curves
from hn.report.figures import MARKERS, SETTINGS, save_figure
from hn.report.result_files import METHODS_CSV, write_rows_csv
from hn.report.styles import COLORS
from hn.utils.environment import environment
from hn.utils.files import write_json, write_text
from hn.utils.tables import as_text, new_table

_DIGITS = {"kl_nats": 2, "nfe": 0, "seconds_per_image": 4, "penalty_per_dimension": 4}
_WIDE = 240  # columns, so that no number is cut
_FIGURES, _TABLE, _RESULTS = "figures", "table.txt", "results.json"
_TRADE_OFF = ("val/reward", "val/held_out_reward")


@dataclass(frozen=True)
class Point:
    """What was measured at one place of a study.

    Attributes:
        name: of the folder with its `results.json`.
        labels: names of its values, one for each axis.
        options: its values by option.
        run: directory of the training.
        training: `training` of the run's `results.json`.
        base: the base's entry in `results.json`.
        method: what was trained: "hypernetwork" or "finetune".
        trained: its entry.
    """

    name: str
    labels: tuple[str, ...]
    options: Mapping[str, Any]
    run: Path
    training: Mapping[str, Any]
    base: Mapping[str, Any]
    method: str
    trained: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path, labels: tuple[str, ...], options: Mapping[str, Any], run: Path) -> Point:
        """The point of a test's or a training's `results.json`, with the run it belongs to."""
        methods = json.loads(file.read_text(encoding="utf-8"))["methods"]
        training = json.loads((run / _RESULTS).read_text(encoding="utf-8"))["training"]
        method = next(name for name in methods if name != "base")
        return cls(file.parent.name, labels, options, run, training, methods["base"], method, methods[method])


def write_study(folder: Path, study: Study, points: Sequence[Point]) -> str:
    """Write `results.json`, `results.csv`, `table.txt` and `figures/`: `study` and `curves`, each as PNG and PDF.

    Args:
        folder: of the study's runs.
        study: what was asked for.
        points: what there is of it so far, one at least.

    Returns:
        The table, as in `table.txt`.
    """
    entries = {
        point.name: {
            "options": dict(point.options),
            "run": str(point.run),
            "training": point.training,
            "methods": {"base": point.base, point.method: point.trained},
        }
        for point in points
    }
    axes = {axis.option: list(axis.values) for axis in study.axes}
    results = {
        "study": study.name,
        "experiments": list(study.experiments),
        "options": dict(study.options),
        "axes": axes,
    }
    results |= {"environment": environment(), "variants": entries}
    if means := means_over_seeds(study, points):
        results["means_over_seeds"] = [
            {"labels": labels, **{name: _described(values) for name, values in found.items()}}
            for labels, found in means.items()
        ]
    write_json(folder / _RESULTS, results, durable=True)
    write_rows_csv(
        folder / METHODS_CSV,
        [
            {"variant": point.name, **point.options, "method": method, **entry}
            for point in points
            for method, entry in (("base", point.base), (point.method, point.trained))
        ],
    )
    table = study_table(study, points)
    if not any(axis.title == "max_steps" for axis in study.axes):
        updates = {point.name: point.training.get("steps") for point in points}
        table = "\n\n".join([table, *unequal_budgets(updates)])
    write_text(folder / _TABLE, table + "\n")
    with mpl.rc_context(SETTINGS):
        figure = draw_study(study, points)
        (folder / _FIGURES).mkdir(exist_ok=True)
        for kind in ("png", "pdf"):
            save_figure(figure, folder / _FIGURES / f"study.{kind}")
    runs = {point.run.name: point.run for point in points}
    scalars = [f"val/{name}" for name in study.show if "." not in name]
    for kind in ("png", "pdf"):
        plot_curves(runs, folder / _FIGURES / f"curves.{kind}", scalars, _TRADE_OFF, study.name)
    return table


def metric_value(entry: Mapping[str, Any], name: str) -> float | None:
    """A number of a method's entry in `results.json`; of GenEval without a category the overall one.

    Args:
        entry: of the method.
        name: members after a dot.
    """
    found: Any = entry
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found.get("overall") if isinstance(found, Mapping) else found


def metric_interval(entry: Mapping[str, Any], name: str) -> list[float] | None:
    """Bounds of the 95 % interval of the difference to the base; None where there is none."""
    return entry.get(f"{name}_delta_ci95")


def means_over_seeds(study: Study, points: Sequence[Point]) -> dict[tuple[str, ...], dict[str, list[float]]]:
    """What each seed reached, by the labels of the other axes and the shown metric; empty if no seeds vary."""
    options = [axis.option for axis in study.axes]
    if SEED not in options:
        return {}
    place, found = options.index(SEED), {}
    for point in points:
        others = point.labels[:place] + point.labels[place + 1 :]
        for name in study.show:
            value = metric_value(point.trained, name)
            if value is not None:
                found.setdefault(others, {}).setdefault(name, []).append(value)
    return found


def study_table(study: Study, points: Sequence[Point]) -> str:
    """A row for each point and one for each base that is another, and below the intervals of the differences, and the
    means over training seeds where those vary."""
    varied = [axis.title for axis in study.axes]
    values = _table(f"{study.name}: {', '.join(Path(file).stem for file in study.experiments)}", varied, study.show)
    base_rows = [_cells(point.base, study.show) for point in points]
    matters = [_depends_on(k, points, base_rows) for k in range(len(varied))]
    shown = set()
    for point, cells in zip(points, base_rows, strict=True):
        labels = tuple(label if is_one else "" for label, is_one in zip(point.labels, matters, strict=True))
        if (labels, *cells) not in shown:
            shown.add((labels, *cells))
            values.add_row(*_with_base(labels), *cells)
    for point in points:
        values.add_row(*point.labels, *_cells(point.trained, study.show))
    tables = [values]
    measured = [name for name in study.show if any(metric_interval(point.trained, name) for point in points)]
    if measured:
        intervals = _table("95 % intervals of the difference to the base", varied, measured)
        for point in points:
            intervals.add_row(*point.labels, *(_interval(metric_interval(point.trained, name)) for name in measured))
        tables.append(intervals)
    if means := means_over_seeds(study, points):
        tables.append(_means_table(study, means))
    return as_text(*tables, width=_WIDE)


def _means_table(study: Study, means: Mapping[tuple[str, ...], Mapping[str, Sequence[float]]]) -> Table:
    varied = [axis.title for axis in study.axes if axis.option != SEED]
    names = [name for name in study.show if any(name in found for found in means.values())]
    table = _table("means over training seeds, with 95 % intervals", [*varied, "seeds"], names)
    for labels, found in means.items():
        cells = [_mean_cell(name, found.get(name, ())) for name in names]
        table.add_row(*labels, str(max(map(len, found.values()))), *cells)
    return table


def _mean_cell(name: str, values: Sequence[float]) -> str:
    if not values:
        return "-"
    (mean, interval), digits = mean_and_interval(values), _DIGITS.get(name, 3)
    return f"{mean:.{digits}f}" + (f" ± {interval[1] - mean:.{digits}f}" if interval else "")


def _described(values: Sequence[float]) -> dict[str, Any]:
    mean, interval = mean_and_interval(values)
    return {"mean": mean, "ci95": interval, "seeds": len(values)}


def draw_study(study: Study, points: Sequence[Point]) -> Figure:
    """A panel for each metric over the last axis's values, a line for each value of the first where there are two.

    Bars are the 95 % intervals of the paired difference to the base, drawn from the base's value; the base is dashed.
    """
    axis, others = study.axes[-1], study.axes[:-1]
    names = [name for name in study.show if any(metric_value(point.trained, name) is not None for point in points)]
    width = max(2.2, 0.55 * len(axis.values) + 1.2)
    columns = min(3, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(width * columns, 2.4 * rows), layout="constrained")
    places = _places(axis)
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(point.labels[0] if others else "", []).append(point)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, name in zip(panels, names, strict=False):
        _draw_base(panel, name, points, places)
        for k, ((label, members), color, mark) in enumerate(
            zip(lines.items(), cycle(COLORS[1:]), cycle(MARKERS.values()), strict=False)
        ):
            aside = offset_copy(panel.transData, figure, x=4 * (k - (len(lines) - 1) / 2), units="points")
            _draw_line(panel, name, members, places, color=color, marker=mark, label=label, transform=aside)
        _set_ticks(panel, axis, places)
        panel.set(title=_title(name), xlabel=axis.title)
        panel.grid(axis="y", alpha=0.25, linewidth=0.5)
    for panel in panels[len(names) :]:
        panel.remove()
    if names:
        panels[0].legend(fontsize=7)
    return figure


def _table(title: str, varied: Sequence[str], metrics: Sequence[str]) -> Table:
    table = new_table(title)
    table.min_width = len(title)  # which would be broken otherwise
    for header in varied:
        table.add_column(header, no_wrap=True)
    for header in metrics:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _draw_base(panel: Axes, name: str, points: Sequence[Point], places: Mapping[str, float]) -> None:
    """Its value at each place; one line from edge to edge where all are the same."""
    found = {places[point.labels[-1]]: metric_value(point.base, name) for point in points}
    found = {x: value for x, value in found.items() if value is not None}
    if len({*found.values()}) == 1:
        panel.axhline(next(iter(found.values())), color=COLORS[0], linestyle="--", linewidth=0.8, label="base")
    elif found:
        xs = sorted(found)
        panel.plot(xs, [found[x] for x in xs], "--", color=COLORS[0], marker=".", linewidth=0.8, label="base")


def _draw_line(
    panel: Axes, name: str, points: Sequence[Point], places: Mapping[str, float], label: str, marker: str, **style: Any
) -> None:
    """Its values with their intervals; `style` is of markers and bars, which lines of one figure may not share."""
    drawn, ends = [], []
    for point in points:
        x, value, base = places[point.labels[-1]], metric_value(point.trained, name), metric_value(point.base, name)
        if value is None:
            continue
        drawn.append((x, value))
        bounds = metric_interval(point.trained, name)
        if bounds is not None and base is not None:
            bar = [base + bound for bound in bounds]
            panel.plot([x, x], bar, linewidth=1.2, **style)
            ends += [(x, end) for end in bar]
    if drawn:
        drawn.sort()
        panel.plot(*zip(*drawn, strict=True), marker=marker, markersize=4, linewidth=0.8,
                   label=label or points[0].method, **style)  # fmt: skip
        panel.update_datalim([*drawn, *ends])  # which is not done for what is drawn aside
        panel.autoscale_view()


def _places(axis: Axis) -> dict[str, float]:
    """Where a value is on the x axis: a number at itself, anything else in its order."""
    return {
        label: float(value) if axis.is_numeric else float(k) for k, (label, value) in enumerate(axis.values.items())
    }


def _set_ticks(panel: Axes, axis: Axis, places: Mapping[str, float]) -> None:
    xs = list(places.values())
    if axis.is_numeric and min(xs) > 0 and max(xs) >= 4 * min(xs):
        panel.set_xscale("log")
        margin = (max(xs) / min(xs)) ** 0.08
        panel.set_xlim(min(xs) / margin, max(xs) * margin)
    elif not axis.is_numeric:
        panel.set_xlim(-0.5, len(xs) - 0.5)
    panel.xaxis.set_major_locator(FixedLocator(xs))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(xs, list(places))


def _title(name: str) -> str:
    first, _, member = name.partition(".")
    return f"{TITLES[first]}: {member.replace('_', ' ')}" if member else TITLES[first]


def _cells(entry: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    values = {name: metric_value(entry, name) for name in names}
    return tuple("-" if value is None else f"{value:.{_DIGITS.get(name, 3)}f}" for name, value in values.items())


def _interval(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:+.3f} .. {bounds[1]:+.3f}"


def _depends_on(k: int, points: Sequence[Point], rows: Sequence[tuple[str, ...]]) -> bool:
    """Whether rows differ where only the k-th label does."""
    by_others: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for point, row in zip(points, rows, strict=True):
        by_others.setdefault(point.labels[:k] + point.labels[k + 1 :], set()).add(row)
    return any(len(found) > 1 for found in by_others.values())


def _with_base(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels with "base" in the first cell."""
    return (f"base {labels[0]}".strip(), *labels[1:])
