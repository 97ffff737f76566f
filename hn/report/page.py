"""`report.html`: a comparison as one self-contained page, and figures for papers."""

from __future__ import annotations

import base64
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from hn.evaluation.categories import ALL
from hn.report.axes import linear_axis
from hn.report.cautions import cautions, unequal_validations
from hn.report.columns import Column, columns_of
from hn.report.comparison import RESULTS, ComparisonFolder, GalleryPrompt, Metric, read_comparison
from hn.report.figures import draw_figures
from hn.report.result_files import IMAGES_CSV, METHODS_CSV
from hn.report.styles import Style, label_of, styles_of
from hn.report.svg import curve_panel, trade_off
from hn.utils.files import write_text
from hn.utils.text import count_of

PAGE = "report.html"
FIGURES = "figures"
MINUS = "\N{MINUS SIGN}"
_CURVES = {
    "val/reward": "Trained reward",
    "val/held_out_reward": "Held-out reward",
    "val/geneval": "GenEval",
    "val/cmmd": "CMMD",
    "val/kl_nats": "KL, nats",
}
_SHOWN_WHOLE, _LARGEST = 128, 512  # pixels: smaller images are embedded without loss, larger ones scaled down


@dataclass(frozen=True)
class StripRow:
    """One method on a strip: value and interval, positions in percent of the strip's width."""

    style: Style
    text: str
    dot: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Strip:
    """A strip plot: the values of several methods on one axis.

    Attributes:
        title: of the strip.
        note: shown beside the title.
        rows: one per method.
        ticks: position in percent, and text.
        zero: position of 0 in percent; None if it is not on the axis.
        is_bar: draw values as bars from 0.
    """

    title: str
    note: str
    rows: Sequence[StripRow]
    ticks: Sequence[tuple[float, str]]
    zero: float | None
    is_bar: bool = False


def write_report(folder: Path) -> Path:
    """Write `report.html` and `figures/` to the folder of a comparison.

    Raises:
        FileNotFoundError, ValueError: as `read_comparison`.
    """
    comparison = read_comparison(folder)
    draw_figures(comparison, folder / FIGURES)
    path = folder / PAGE
    write_text(path, render(comparison))
    return path


def render(comparison: ComparisonFolder) -> str:
    """The HTML of the page, with styles, script and images, and a content security policy that blocks all requests."""
    environment = Environment(
        loader=PackageLoader("hn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = environment.loader.get_source
    styles = styles_of(comparison.methods)
    columns = columns_of(comparison.methods, comparison.results.get("reward_weights") or {})
    metrics = comparison.metrics
    return environment.get_template("report.html").render(
        css=Markup(source(environment, "report.css")[0]),
        script=Markup(source(environment, "report.js")[0]),
        title=comparison.results.get("experiment", comparison.folder.name),
        facts=_facts(comparison),
        findings=_findings(comparison),
        cautions=cautions(comparison.results),
        has_base_curve=not unequal_validations(_curves(comparison, styles)),
        files=[name for name in (RESULTS, METHODS_CSV, IMAGES_CSV) if (comparison.folder / name).is_file()],
        has_figures=(comparison.folder / FIGURES).is_dir(),
        methods=comparison.methods,
        styles=styles,
        groups=_groups(columns),
        columns=columns,
        best={column.key: column.best(comparison.methods.values()) for column in columns},
        differences=[strip for metric in metrics if (strip := difference_strip(comparison, metric, styles))],
        trade_offs={metric: plots for metric in metrics if (plots := _trade_offs(comparison, metric, styles))},
        categories={
            metric: strips for metric in reversed(metrics) if (strips := category_strips(comparison, metric, styles))
        },
        curves=_curve_panels(comparison, styles),
        curve_names=list(_curves(comparison, styles)),
        gallery=[
            (row, {name: _embedded(image.path) for name, image in row.images.items()}) for row in comparison.gallery
        ],
        gallery_categories=_gallery_categories(comparison.gallery),
        grouped_by=comparison.results.get("grouped_by") or [],
        gallery_methods=[name for name in comparison.methods if any(name in row.images for row in comparison.gallery)],
        number=number,
    )


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """Format a number with a Unicode minus sign, and none before a rounded 0; None becomes a dash."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:{'+' if sign else ''}z.{digits}f}".replace("-", MINUS)


def difference_strip(comparison: ComparisonFolder, metric: Metric, styles: Mapping[str, Style]) -> Strip | None:
    """Differences to the base with paired 95 % intervals; None if no method has any."""
    base = metric.value(comparison.methods["base"])
    shown: dict[str, tuple[float, list[float] | None]] = {}
    for name, method in comparison.methods.items():
        value = metric.value(method)
        if name != "base" and value is not None and base is not None:
            shown[name] = (value - base, metric.delta_interval(method))
    return _strip(metric.title, "difference to the base", shown, styles, metric.digits, sign=True) if shown else None


def category_strips(comparison: ComparisonFolder, metric: Metric, styles: Mapping[str, Style]) -> list[Strip]:
    """A strip per category with this metric, all with the same axis; shares of GenEval are bars."""
    entries = {name: method.get("categories") or {} for name, method in comparison.methods.items()}
    found: dict[str, dict[str, tuple[float, list[float] | None]]] = {}
    notes = {}
    for category in comparison.categories:
        own = {name: categories[category] for name, categories in entries.items() if category in categories}
        values = {name: metric.value(entry) for name, entry in own.items()}
        found[category] = {n: (v, metric.interval(own[n])) for n, v in values.items() if v is not None}
        first = next(iter(own.values()))
        notes[category] = f"{first['prompts']} prompts, {first['images']} images"
    ends = [end for rows in found.values() for value, interval in rows.values() for end in (value, *(interval or ()))]
    if not ends:
        return []
    bounds = (0.0, 1.0) if metric.key == "geneval" else (min(ends), max(ends))
    return [
        _strip(category.replace("_", " "), notes[category], rows, styles, 2 if metric.key == "geneval" else 3,
               bounds=bounds, is_bar=metric.key == "geneval")
        for category, rows in found.items()
        if rows
    ]  # fmt: skip


def _strip(
    title: str,
    note: str,
    rows: Mapping[str, tuple[float, list[float] | None]],
    styles: Mapping[str, Style],
    digits: int,
    sign: bool = False,
    bounds: tuple[float, float] | None = None,
    is_bar: bool = False,
) -> Strip:
    ends = [end for value, interval in rows.values() for end in (value, *(interval or ()))]
    include = (0.0, *bounds) if is_bar and bounds else bounds or (0.0,)
    axis = linear_axis([*ends, *(include if sign or not is_bar else ())], count=4, include=include if is_bar else ())

    def percent(value: float) -> float:
        return round(100 * axis(value), 3)

    return Strip(
        title,
        note,
        [
            StripRow(
                styles[name],
                number(value, digits, sign),
                percent(value),
                percent(interval[0]) if interval else None,
                percent(interval[1]) if interval else None,
            )
            for name, (value, interval) in rows.items()
        ],
        [(percent(tick), text.replace("-", MINUS)) for tick, text in zip(axis.ticks, axis.tick_labels, strict=True)],
        percent(0.0) if axis.low <= 0 <= axis.high else None,
        is_bar,
    )


def _trade_offs(comparison: ComparisonFolder, metric: Metric, styles: Mapping[str, Style]) -> list[Markup]:
    """The plot for wide and the one for narrow windows; empty if no times were measured."""
    points = {
        name: (method["seconds_per_image"], metric.value(method))
        for name, method in comparison.methods.items()
        if metric.value(method) is not None and method.get("seconds_per_image")
    }
    if not points:
        return []
    traces = {}
    if metric.key == "reward":  # searches maximise the trained reward, so their traces are of it
        for name, trace in comparison.traces.items():
            traces[name] = [
                (point["seconds_per_image"], point["reward"])
                for point in trace
                if point["seconds_per_image"] > 0 and math.isfinite(point["reward"])
            ]
    wide = trade_off(points, styles, metric.title, traces)
    narrow = trade_off(points, styles, metric.title, traces, width=440, height=400, labelled=False)
    return [Markup(wide), Markup(narrow)]


def _curves(comparison: ComparisonFolder, styles: Mapping[str, Style]) -> dict[str, Mapping[str, Any]]:
    """Curves of validation scores by method, of those that were trained in a run."""
    curves = comparison.results.get("curves") or {}
    return {name: curve for name, curve in curves.items() if name in styles and curve}


def _curve_panels(comparison: ComparisonFolder, styles: Mapping[str, Style]) -> list[tuple[str, Markup]]:
    curves = _curves(comparison, styles)
    panels = []
    for scalar, title in _CURVES.items():
        lines = {
            name: [p for p in zip(own[scalar]["step"], own[scalar]["value"], strict=True) if p[1] is not None]
            for name, own in curves.items()
            if scalar in own
        }
        lines = {name: line for name, line in lines.items() if line}
        key = scalar.replace("/", "/base_")
        base = next((own[key]["value"][0] for own in curves.values() if key in own), None)
        if unequal_validations(curves):
            base = None
        if lines:
            panels.append((title, Markup(curve_panel(lines, styles, title, base))))
    return panels


def _groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Group headings and the number of columns they span."""
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return groups


def _facts(comparison: ComparisonFolder) -> dict[str, str]:
    results = comparison.results
    environment = results.get("environment") or {}
    base = comparison.methods["base"]
    categories = base.get("categories") or {}
    prompts = sum(category["prompts"] for category in categories.values())
    versions = environment.get("packages") or {}
    facts = {
        "Finished": comparison.finished and comparison.finished.strftime("%Y-%m-%d %H:%M %Z"),
        "Images": f"{base.get('images', 0)} a method" + (f", of {prompts} prompts" if prompts else ""),
        "Machine": environment.get("gpu") or environment.get("processor"),
        "Commit": re.sub(r"^([0-9a-f]{12})[0-9a-f]+", r"\1", environment.get("git_commit") or ""),
        "Versions": ", ".join(f"{name} {versions[name]}" for name in ("hn", "torch", "diffusers") if name in versions),
        "Folder": comparison.folder.resolve().name,
    }
    updates = results.get("updates") or {}
    for name, path in (results.get("weights") or {}).items():
        if path is not None:
            title = {"hypernetwork": "Hypernetwork", "finetune": "Fine-tune"}.get(name, f"Weights of {label_of(name)}")
            facts[title] = f"{path} ({count_of(updates[name], 'update')})" if updates.get(name) else str(path)
    return {name: value for name, value in facts.items() if value}


def _findings(comparison: ComparisonFolder) -> list[str]:
    """Sentences on the change of each score by the hypernetwork, and on its cost."""
    base, method = comparison.methods["base"], comparison.methods.get("hypernetwork")
    if method is None:
        return []
    found = []
    for metric in comparison.metrics:
        ours, theirs, interval = metric.value(method), metric.value(base), metric.delta_interval(method)
        if ours is not None and theirs is not None and interval is not None:
            low, high = (number(bound, 3, sign=True) for bound in interval)
            unsure = ", an interval that includes 0" if interval[0] <= 0 <= interval[1] else ""
            found.append(f"{metric.title} {number(ours - theirs, 3, sign=True)} ({low} to {high}{unsure})")
    if found and base.get("seconds_per_image") and method.get("seconds_per_image"):
        found.append(
            f"{method['seconds_per_image'] / base['seconds_per_image']:.1f} times the base's seconds for an image"
        )
    return found


def _gallery_categories(gallery: Sequence[GalleryPrompt]) -> dict[str, int]:
    """Number of prompts by category; empty if there is only one category."""
    counts = Counter(row.category for row in gallery)
    return {} if list(counts) == [ALL] else dict(counts)


def _embedded(path: Path) -> dict[str, Any]:
    """An image as a data URL, and whether it is small, so that the page scales it up without smoothing.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); remove it to draw the page without.") from None
    is_small = max(image.size) <= _SHOWN_WHOLE
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if is_small:
        image.save(buffer, format="WEBP", lossless=True)
    else:
        image.save(buffer, format="WEBP", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"source": f"data:image/webp;base64,{data}", "is_small": is_small, "size": image.size}
