"""Training curves of several runs, read from their TensorBoard files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hn.report.cautions import unequal_validations
from hn.report.figures import save_figure
from hn.report.styles import COLORS

SCALARS = ("val/reward", "val/held_out_reward", "val/geneval", "val/cmmd")
EVALUATION_EVENTS = ".evaluation"
"""Ending of the event files of `hn validate` and `hn test`, which know no update: validations there are no part of the
curves of a training."""
TRADE_OFF = ("val/reward", "val/cmmd")
_MOST_IN_A_ROW = 5
_COLORS = COLORS[1:]  # the first is the base's

Scalars = dict[str, tuple[list[int], list[float]]]


def read_scalars(run: str | Path) -> Scalars:
    """Every scalar of a run directory: name -> (steps, values), in the order of steps; of validations those in training
    alone."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(Path(run).glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        is_evaluation = path.suffix == EVALUATION_EVENTS
        for name in events.Tags()["scalars"]:
            if not (is_evaluation and name.startswith("val/")):
                found.setdefault(name, {}).update({event.step: event.value for event in events.Scalars(name)})
    return {name: (sorted(points), [points[step] for step in sorted(points)]) for name, points in found.items()}


def validation_curves(run: str | Path) -> dict[str, dict[str, list[float]]]:
    """`step` and `value` of every validation scalar of a run, by name; empty for a folder without a training."""
    return _as_curves({name: points for name, points in sorted(read_scalars(run).items()) if name.startswith("val/")})


def _as_curves(scalars: Scalars) -> dict[str, dict[str, list[float]]]:
    return {name: {"step": steps, "value": values} for name, (steps, values) in scalars.items()}


def _without_base(scalars: Scalars) -> Scalars:
    return {name: points for name, points in scalars.items() if "/base_" not in name}


def plot_curves(
    runs: Mapping[str, str | Path],
    path: str | Path,
    scalars: Sequence[str] = SCALARS,
    trade_off: tuple[str, str] | None = TRADE_OFF,
    title: str = "",
) -> Path | None:
    """Plot several runs to a PNG or PDF: one panel per scalar over the steps, and a last one of two scalars.

    The value of the base generator is a dashed line (a cross in the last panel) if a run logged it, and all runs that
    did were validated alike; otherwise a note says that they were not.

    Args:
        runs: label -> run directory.
        path: of the file, .png or .pdf.
        scalars: one panel each; those that no run has are skipped.
        trade_off: x and y of the last panel, with a point for each step at which a run has both.
        title: of the figure.

    Returns:
        `path`, or None if no run has any of the scalars.
    """
    curves = {label: read_scalars(run) for label, run in runs.items()}
    panels = [name for name in scalars if any(name in found for found in curves.values())]
    if not panels:
        return None
    if trade_off is not None and not any(set(trade_off) <= found.keys() for found in curves.values()):
        trade_off = None
    count = len(panels) + (trade_off is not None)
    rows = -(-count // _MOST_IN_A_ROW)
    columns = -(-count // rows)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows), layout="constrained")
    figure.suptitle(title)
    if notes := unequal_validations({label: _as_curves(found) for label, found in curves.items()}):
        figure.supxlabel("\n".join(textwrap.wrap(notes[0], int(25 * columns + 25))), fontsize="small")
        curves = {label: _without_base(found) for label, found in curves.items()}
    every_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in every_axes[count:]:
        axes.remove()
    del every_axes[count:]
    for axes, name in zip(every_axes, panels, strict=False):
        for (label, found), color in zip(curves.items(), cycle(_COLORS), strict=False):
            if name in found:
                axes.plot(*found[name], color=color, marker=".", label=label)
        base = _base_value(curves, name)
        if base is not None:
            axes.axhline(base, color="0.4", linestyle="--", linewidth=1, label="base")
        axes.set(title=_short(name), xlabel="step")
    if trade_off is not None:
        _draw_trade_off(every_axes[-1], curves, *trade_off)
    for axes in every_axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, dpi=130)
    return path


def _draw_trade_off(axes: Axes, curves: Mapping[str, Scalars], x: str, y: str) -> None:
    for found, color in zip(curves.values(), cycle(_COLORS), strict=False):
        if x in found and y in found:
            values = [dict(zip(*found[name], strict=True)) for name in (x, y)]
            steps = sorted(values[0].keys() & values[1].keys())
            axes.plot(*([value[step] for step in steps] for value in values), color=color, marker=".")
    base = [_base_value(curves, name) for name in (x, y)]
    if None not in base:
        axes.plot(*base, color="0.4", marker="x", linestyle="")
    axes.set(title=f"{_short(y)} at {_short(x)}", xlabel=_short(x), ylabel=_short(y))


def _base_value(curves: Mapping[str, Scalars], name: str) -> float | None:
    key = name.replace("/", "/base_", 1)
    return next((found[key][1][0] for found in curves.values() if key in found), None)


def _short(name: str) -> str:
    return name.split("/", 1)[1].replace("_", " ")
