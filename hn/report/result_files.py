"""Files of a comparison beside `results.json`: CSV tables and timing."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hn.utils.files import csv_text, write_csv

METHODS_CSV, IMAGES_CSV, TIMING_JSON = "results.csv", "images.csv", "timing.json"


def write_methods_csv(path: Path, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a row for each method, with a column for each number in its entry in `results.json`.

    Names of nested entries are joined with dots, and bounds of intervals get the columns `_low` and `_high`. Missing
    values are empty.
    """
    write_rows_csv(path, ({"method": name, **entry} for name, entry in methods.items()))


def write_rows_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a row for each entry, with columns as in `write_methods_csv`."""
    write_csv(path, [_flat(row) for row in rows])


def write_images_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a row for each image of each method, from `hn.evaluation.comparison.details.image_rows`."""
    write_csv(path, list(rows))


def read_images_csv(path: Path) -> list[dict[str, Any]]:
    """Read a file of `write_images_csv`.

    Raises:
        ValueError: if the file is no such table.
    """
    with path.open(encoding="utf-8", newline="") as file:
        names, *cells = [[csv_text(cell) for cell in row] for row in csv.reader(file) if row] or [[]]
        rows = [dict(zip(names, row, strict=False)) for row in cells]
    try:
        return [_read_row(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of a comparison's images: {error!r}.") from None


def _read_row(row: Mapping[str, str]) -> dict[str, Any]:
    category = row["category"] if "category" in row else row["tag"]  # the name in files of earlier versions
    read: dict[str, Any] = {"method": row["method"], "category": category, "prompt": row["prompt"]}
    read |= {"index": int(row["index"]), "copy": int(row["copy"])}
    if "correct" in row:
        read["correct"] = {"True": True, "False": False, "": None}[row["correct"]]
    return read | {name: float(text) if text else None for name, text in row.items() if name not in (*read, "tag")}


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and len(value) == 2:
            flat |= {f"{prefix}{name}_low": value[0], f"{prefix}{name}_high": value[1]}
        elif value is None and name.endswith("_ci95"):
            flat |= {f"{prefix}{name}_low": None, f"{prefix}{name}_high": None}
        else:
            flat[f"{prefix}{name}"] = value
    return flat
