"""Curves of training runs side by side, read from their TensorBoard files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCALARS = ("val/reward", "val/held_out_reward", "val/geneval", "val/fidelity")
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # distinguishable without colour vision too


def read_scalars(run: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Every scalar of a run directory: name -> (steps, values), in the order of steps."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(Path(run).glob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, {}).update({event.step: event.value for event in events.Scalars(name)})
    return {name: (sorted(points), [points[step] for step in sorted(points)]) for name, points in found.items()}


def plot_curves(
    runs: Mapping[str, str | Path], path: str | Path, scalars: Sequence[str] = SCALARS, title: str = ""
) -> Path | None:
    """Draw one panel per scalar with a line per run, the base's value dashed where the run logged it, to a PNG.

    Args:
        runs: label -> run directory.
        path: of the PNG.
        scalars: panels; those that no run has are left out.
        title: of the figure.

    Returns:
        `path`, or None if no run has any of the scalars.
    """
    curves = {label: read_scalars(run) for label, run in runs.items()}
    panels = [name for name in scalars if any(name in found for found in curves.values())]
    if not panels:
        return None
    figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
    figure.suptitle(title)
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        stage, short = name.split("/", 1)
        for (label, found), color in zip(curves.items(), _COLORS, strict=False):
            if name in found:
                axes.plot(*found[name], color=color, marker=".", label=label)
        base = next((found[key] for found in curves.values() if (key := f"{stage}/base_{short}") in found), None)
        if base:
            axes.axhline(base[1][0], color="0.4", linestyle="--", linewidth=1, label="base")
        axes.set(title=short.replace("_", " "), xlabel="step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
