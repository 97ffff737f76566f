"""Image files: what each was made of, whether it can be read, and its pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hn.utils.progress import with_progress

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # PIL's modes that RGB can stand for

_NAMED = 8  # files in a message


@dataclass(frozen=True)
class ImageFile:
    """One image on disk.

    Attributes:
        path: of the file.
        prompt: what it was made of; None where nothing says so.
        method: what made it, as `hn generate --compare` names it; None where nothing says so.
        metadata: the row of its prompt, in GenEval's layout.
    """

    path: Path
    prompt: str | None = None
    method: str | None = None
    metadata: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def row(self) -> Mapping[str, Any]:
        """The row of its prompt, or one with the prompt alone."""
        return self.metadata or {"prompt": self.prompt}


def check_images(files: Sequence[ImageFile]) -> list[tuple[int, int]]:
    """Decode every image, so that a broken one shows before anything heavy happens.

    Returns:
        Height and width of each.

    Raises:
        ValueError: names the files that cannot be read.
    """
    found = image_sizes(files)
    complaints = [size for size in found if isinstance(size, str)]
    if complaints:
        more = len(complaints) - _NAMED
        shown = complaints[:_NAMED] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError("\n".join([*shown, "Replace or remove them."]))
    return found


def image_sizes(files: Sequence[ImageFile]) -> list[tuple[int, int] | str]:
    """Decode every image: height and width of each, or what is wrong with it."""

    def check(file: ImageFile) -> tuple[int, int] | str:
        try:
            width, height = _decode(file.path).size
            return height, width
        except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error, ...
            return f"{file.path} cannot be read: {error}"

    with ThreadPoolExecutor() as pool:  # decoders release the interpreter's lock
        return [
            size
            for _, size in zip(with_progress(files, "checking", unit="images"), pool.map(check, files), strict=True)
        ]


def load_image(source: Path | BinaryIO) -> Tensor:
    """An image file as RGB [3, H, W] in [0, 1], float32, turned as its EXIF orientation says; transparency is ignored.

    Raises:
        OSError: if the file is missing or no image, or truncated.
        ValueError: if it has more than 8 bits a channel, which PIL cannot bring to RGB.
    """
    return torch.from_numpy(np.array(_decode(source))).permute(2, 0, 1).float() / 255


def load_with_digest(path: Path) -> tuple[Tensor, str]:
    """An image as `load_image` has it, and the SHA-256 of the very bytes that it was decoded from."""
    content = path.read_bytes()
    return load_image(io.BytesIO(content)), hashlib.sha256(content).hexdigest()


def size_batches(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Places of images in batches of one size each, in the order in which the sizes first appear."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, size in enumerate(sizes):
        by_size.setdefault(size, []).append(place)
    return [
        places[start : start + batch_size] for places in by_size.values() for start in range(0, len(places), batch_size)
    ]


def _decode(source: Path | BinaryIO) -> Image.Image:
    with Image.open(source) as image:
        if image.mode not in _EIGHT_BIT:
            raise ValueError(f"its pixels are of PIL's mode {image.mode}; save it with 8 bits a channel")
        return ImageOps.exif_transpose(image).convert("RGB")
