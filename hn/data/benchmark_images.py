"""Images of a benchmark's prompts on disk, in the layouts that its tools and `hn` use, with the prompts' rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hn.data.formats import PathLike, read_prompts
from hn.data.images import GENEVAL_SAMPLES, ImageFile, read_image_folder
from hn.data.manifest import PromptFile
from hn.data.prompts import normalised
from hn.data.sources import Sources, parse_sources
from hn.data.store import PromptStore
from hn.wording import some_of

SET = "set"
"""Entry of a row that names the prompt set it is of."""

_NUMBERED = re.compile(r"(?P<prompt>.+)_\d+")  # T2I-CompBench's names of images, without their ending


def read_benchmark_images(source: PathLike) -> list[ImageFile]:
    """Images with their prompts, and with the prompts' rows where the layout has them; no image is opened.

    Four layouts:
        what `hn predict` and `hn generate` write, see `read_image_folder`;
        T2I-CompBench's: `samples/<prompt>_000000.png, ...` in a folder, or the folder `samples` itself;
        GenEval 2's: a .json file, an object with prompts as keys and paths of images as values; these are relative to
        the file's folder, or else to the working directory.

    Raises:
        FileNotFoundError: if the folder, the file, or an image that it names is missing.
        ValueError: if there are no images, or no prompts of theirs.
    """
    source = Path(source)
    if source.suffix == ".json":
        return _of_mapping(source)
    samples = source / GENEVAL_SAMPLES
    files = read_image_folder(samples if samples.is_dir() else source)
    if all(file.prompt is None for file in files):
        files = [_named_after_prompt(file) for file in files]
    return [file if file.metadata else replace(file, metadata={"prompt": file.prompt}) for file in files]


def with_rows(
    files: Sequence[ImageFile], prompts: Sources, store: PromptStore | None = None
) -> tuple[list[ImageFile], int]:
    """The images of certain prompts, with the rows of these, to which `set` is added: the name of their prompt set.

    Prompts are compared as `normalised` says.

    Args:
        files: images with their prompts.
        prompts: names of sets, which are fetched if they are not here, or files of prompts.
        store: where named sets are; the user's by default.

    Returns:
        The images, and the number of prompts without any.

    Raises:
        FileNotFoundError, ValueError: as `read_prompts`, `parse_sources` and `PromptStore.require`; also if no image is
            of one of the prompts.
        DownloadError: if a named set is not here and cannot be fetched.
    """
    rows: dict[str, dict[str, Any]] = {}
    names = []
    for part in parse_sources(prompts, "test"):
        for file in part.files:
            is_named = isinstance(file, PromptFile)
            names.append(file.name if is_named else str(file))
            for row in read_prompts((store or PromptStore()).fetch(file) if is_named else file):
                rows.setdefault(normalised(row["prompt"]), {SET: names[-1], **row})
    found = [replace(file, metadata=rows[key]) for file in files if (key := normalised(file.prompt)) in rows]
    if not found:
        raise ValueError(
            f"None of the images is of a prompt of {', '.join(names)}; the first one is of {files[0].prompt!r}."
        )
    return found, len(rows) - len({normalised(file.prompt) for file in found})


def require_even(files: Sequence[ImageFile]) -> None:
    """Raises:
    ValueError: if prompts have different numbers of images, so that they would not weigh the same; names some.
    """
    counts = Counter(file.prompt for file in files)
    usual, _ = Counter(counts.values()).most_common(1)[0]
    uneven = {f"{prompt!r} ({count})" for prompt, count in counts.items() if count != usual}
    if uneven:
        raise ValueError(
            f"Most prompts have {usual} image{'s' if usual > 1 else ''}, {len(uneven)} have another number: "
            f"{some_of(uneven)}. Make the missing ones, or take them as they are with --allow_uneven."
        )


def _of_mapping(path: Path) -> list[ImageFile]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict) or not content or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f'{path} is to be an object of prompts and paths of images, like {{"a dog": "0.png"}}.')
    beside = {prompt: path.parent / name for prompt, name in content.items()}
    found = {prompt: place if place.is_file() else Path(content[prompt]) for prompt, place in beside.items()}
    missing = {content[prompt] for prompt, place in found.items() if not place.is_file()}
    if missing:
        raise FileNotFoundError(f"{path} names {len(missing)} images that are not there: {some_of(missing)}.")
    return [ImageFile(place, prompt, metadata={"prompt": prompt}) for prompt, place in found.items()]


def _named_after_prompt(file: ImageFile) -> ImageFile:
    match = _NUMBERED.fullmatch(file.path.stem)
    if match is None:
        raise ValueError(
            f"Nothing says what {file.path} is of: it is not named like 'a red car_000000.png', and its folder is not "
            "one that `hn predict` or `hn generate` wrote. GenEval 2's file of prompts and paths is taken too."
        )
    return replace(file, prompt=match["prompt"])
