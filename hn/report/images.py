"""Images on disk that say how they were made, and directories for them that hold nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from hn.files import in_one_step
from hn.report.grid import to_pil


def save_png(image: Tensor, path: Path, text: Mapping[str, Any]) -> None:
    """Write an image [3, H, W] in [0, 1] as PNG, in one step, with a text chunk for each entry of `text`.

    Args:
        image: of any floating-point type, on any device.
        path: of the file.
        text: names and values, as JSON where they are no strings; None is left out.

    Raises:
        ValueError: if the image is not finite.
    """
    if not image.isfinite().all():
        raise ValueError(
            f"The image for {path} is not finite: {str(image.dtype).removeprefix('torch.')} overflows in this "
            "generator; choose another dtype, like bfloat16 or float32."
        )
    chunks = PngInfo()
    for name, value in text.items():
        if value is not None:
            chunks.add_text(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    with in_one_step(path) as partial:
        to_pil(image).save(partial, format="PNG", pnginfo=chunks)


def write_json(path: Path, content: Mapping[str, Any], partial: Path | None = None) -> None:
    """Write a JSON file in one step; `partial` as `in_one_step` takes it."""
    with in_one_step(path, partial) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def unused_directory(path: Path) -> Path:
    """Make and return `path`, or `path_2`, `path_3` and so on if it is there already and holds something."""
    number, candidate = 1, path
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            if candidate.is_dir() and not any(candidate.iterdir()):
                return candidate
            number += 1
            candidate = path.with_name(f"{path.name}_{number}")


def require_unused(path: Path) -> None:
    """Raises:
    ValueError: if `path` is a file, or a folder that holds something.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} is there already and is not written over; choose another --output, or remove it.")
