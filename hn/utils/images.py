"""Image grids with labels, and PNG files."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from hn.utils.errors import InputError
from hn.utils.files import atomic_write

_MARGIN, _LINE, _FONT_SIZE = 6, 15, 13  # pixels
_NOT_FINITE = (
    "A generator in float16 may overflow: choose bfloat16 or float32 as its dtype. In float32, look for NaN or "
    "infinite values in its weights and its noise."
)


def labelled_grid(rows: Mapping[str, Tensor], columns: Sequence[str], upscale: int = 1) -> Image.Image:
    """A grid of images with the name of each row at its left and the caption of each column above it.

    In the place of an image that is not finite stands the word NaN.

    Args:
        rows: images [N, 3, H, W] in [0, 1] by the row's name; N is the number of columns, all have the same size.
        columns: captions, wrapped to the width of an image.
        upscale: integer upscaling factor of the images.

    Raises:
        ValueError: if there are no rows or columns, or a row does not have one image per column.
    """
    if not rows or not columns:
        raise ValueError(f"a grid needs rows and columns, not {len(rows)} by {len(columns)}")
    for name, images in rows.items():
        if len(images) != len(columns):
            raise ValueError(f"row {name!r} has {len(images)} images for {len(columns)} columns")
    font = ImageFont.load_default(_FONT_SIZE)
    height, width = (side * upscale for side in next(iter(rows.values())).shape[-2:])
    wrapped = [textwrap.wrap(caption, max(8, width // 7)) for caption in columns]
    left = 3 * _MARGIN + int(max(font.getlength(name) for name in rows))
    top = _MARGIN + _LINE * max(len(lines) for lines in wrapped)
    size = (left + len(columns) * (width + _MARGIN), top + len(rows) * (height + _MARGIN) + _MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for column, lines in enumerate(wrapped):
        for number, line in enumerate(lines):
            draw.text((left + column * (width + _MARGIN), _MARGIN // 2 + number * _LINE), line, "black", font)
    for row, (name, images) in enumerate(rows.items()):
        y = top + _MARGIN + row * (height + _MARGIN)
        draw.text((_MARGIN, y + height // 2 - _LINE // 2), name, "black", font)
        for column, image in enumerate(images):
            x = left + column * (width + _MARGIN)
            if image.isfinite().all():
                picture.paste(to_pil(image).resize((width, height), Image.Resampling.NEAREST), (x, y))
            else:
                draw.rectangle((x, y, x + width - 1, y + height - 1), outline="red")
                draw.text((x + _MARGIN, y + height // 2 - _LINE // 2), "NaN", "red", font)
    return picture


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image [3, H, W] in [0, 1] to an 8-bit RGB image.

    Raises:
        InputError: if the image has NaN or infinite values, which no pixel can show.
    """
    if not image.isfinite().all():
        raise InputError(f"The image is not finite. {_NOT_FINITE}")
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def save_png(image: Tensor, path: Path, text: Mapping[str, Any]) -> None:
    """Write an image as PNG, atomically, with a text chunk for each entry of `text`.

    Args:
        image: [3, H, W] in [0, 1], of any floating-point type, on any device.
        path: of the file.
        text: values by name; those that are not strings are written as JSON, None is skipped.

    Raises:
        InputError: if the image has NaN or infinite values.
    """
    if not image.isfinite().all():
        raise InputError(f"The image for {path} is not finite and not written. {_NOT_FINITE}")
    chunks = PngInfo()
    for name, value in text.items():
        if value is not None:
            chunks.add_text(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    write_png(to_pil(image), path, pnginfo=chunks)


def write_png(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture as PNG, atomically; `options` are Pillow's."""
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", **options)
