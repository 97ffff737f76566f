"""The contents of the folder of a comparison, from which page and figures are drawn."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hn.evaluation.categories import ALL
from hn.report.result_files import IMAGES_CSV, TIMING_JSON, read_images_csv

RESULTS, GALLERY = "results.json", "gallery"


@dataclass(frozen=True)
class Metric:
    """A score for the comparison of methods.

    Attributes:
        key: in `results.json`, for methods and categories.
        title: shown to readers.
        digits: decimals shown.
    """

    key: str
    title: str
    digits: int = 3

    def value(self, entry: Mapping[str, Any]) -> float | None:
        """The score in the entry of a method or of one of its categories."""
        found = entry.get(self.key)
        return found.get("overall") if isinstance(found, Mapping) else found

    def interval(self, entry: Mapping[str, Any]) -> list[float] | None:
        """Bounds of the 95 % interval of the score itself."""
        return entry.get(f"{self.key}_ci95")

    def delta_interval(self, method: Mapping[str, Any]) -> list[float] | None:
        """Bounds of the 95 % interval of the difference to the base."""
        return method.get(f"{self.key}_delta_ci95")


METRICS = (
    Metric("reward", "Trained reward"),
    Metric("held_out_reward", "Held-out reward"),
    Metric("geneval", "GenEval"),
)


@dataclass(frozen=True)
class GalleryImage:
    """One image of the gallery with its scores; None for those that were not measured."""

    path: Path
    correct: bool | None
    reward: float | None
    held_out: float | None


@dataclass(frozen=True)
class GalleryPrompt:
    """A prompt of the gallery, and its image by method."""

    index: int
    prompt: str
    category: str
    images: Mapping[str, GalleryImage]


@dataclass(frozen=True)
class ComparisonFolder:
    """A finished comparison.

    Attributes:
        folder: of the comparison.
        results: the content of `results.json`.
        finished: time of the end of the comparison, or of the training; None if no file says it.
        traces: by search, a list of `nfe`, `seconds_per_image` and `reward`.
        gallery: prompts in their order.
    """

    folder: Path
    results: Mapping[str, Any]
    finished: datetime | None
    traces: Mapping[str, Sequence[Mapping[str, float]]]
    gallery: Sequence[GalleryPrompt]

    @property
    def methods(self) -> Mapping[str, Mapping[str, Any]]:
        """Entries of the methods, by name."""
        return self.results["methods"]

    @property
    def metrics(self) -> list[Metric]:
        """The scores that were measured."""
        return [metric for metric in METRICS if any(metric.value(entry) is not None for entry in self.methods.values())]

    @property
    def categories(self) -> list[str]:
        """Names of the categories of prompts; empty if there is only one."""
        names = dict.fromkeys(name for entry in self.methods.values() for name in entry.get("categories") or {})
        return [] if list(names) == [ALL] else list(names)


def read_comparison(folder: Path) -> ComparisonFolder:
    """Read the folder that `hn compare` wrote. Only `results.json` is required.

    Raises:
        FileNotFoundError: if there is no such folder, or it has no `results.json`.
        ValueError: if a file is damaged or not of a comparison.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise FileNotFoundError(_missing(folder))
    results = _read_json(path)
    methods = results.get("methods")
    if not isinstance(methods, dict) or "base" not in methods or not all(isinstance(m, dict) for m in methods.values()):
        raise ValueError(f"{path} has no `methods` with `base` among them, so it is not what hn compare writes.")
    for method in methods.values():
        method.setdefault("cmmd", method.get("fidelity"))  # its name in earlier results
    timing = folder / TIMING_JSON
    said = _read_json(timing) if timing.is_file() else {}
    date = said.get("finished", (results.get("training") or {}).get("finished"))
    try:
        finished = None if date is None else datetime.fromisoformat(date)
    except (TypeError, ValueError):
        raise ValueError(f"{timing if 'finished' in said else path}: `finished` is no date: {date!r}.") from None
    return ComparisonFolder(folder, results, finished, said.get("traces", {}), _read_gallery(folder, list(methods)))


def _read_gallery(folder: Path, methods: Sequence[str]) -> list[GalleryPrompt]:
    files = ((name, path) for name in methods for path in (folder / GALLERY / name).glob("*.png"))
    paths = {(name, int(path.stem)): path for name, path in files if path.stem.isdecimal()}
    if not paths or not (folder / IMAGES_CSV).is_file():
        return []
    prompts: dict[int, GalleryPrompt] = {}
    for row in read_images_csv(folder / IMAGES_CSV):
        path = paths.get((row["method"], row["index"]))
        if row["copy"] == 0 and path is not None:
            image = GalleryImage(path, row.get("correct"), row.get("reward"), row.get("held_out"))
            own = prompts.setdefault(row["index"], GalleryPrompt(row["index"], row["prompt"], row["category"], {}))
            prompts[row["index"]] = replace(own, images={**own.images, row["method"]: image})
    return [prompts[index] for index in sorted(prompts)]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON, or bad UTF-8
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no results.")
    return content


def _missing(folder: Path) -> str:
    if not folder.is_dir():
        return f"There is no folder {folder}. Name the one that hn compare wrote, like runs/miniature/compare_<name>."
    if (folder / "records").is_dir():
        return (
            f"{folder} has no {RESULTS}: its comparison is not finished. Go on with it: the same hn compare with "
            f"--run.name={folder.name.removeprefix('compare_')}."
        )
    inside = sorted(str(path.parent) for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{RESULTS}"))
    comparisons = [path for path in inside if os.path.basename(path).startswith("compare_")]
    hint = f" In it are {', '.join(comparisons[:3])}." if comparisons else ""
    return (
        f"{folder} has no {RESULTS}. Name the folder that hn compare wrote, like runs/miniature/compare_<name>.{hint}"
    )
