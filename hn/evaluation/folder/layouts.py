"""Which images a folder holds and what each was made of, in the layouts of several tools; no image is opened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hn.data.formats import PathLike, read_prompts
from hn.data.manifest import PromptFile
from hn.data.prompts import normalised
from hn.data.sources import Sources, parse_sources
from hn.data.store import PromptStore
from hn.evaluation.benchmarks.base import SET
from hn.evaluation.folder.images import ImageFile
from hn.utils.json_files import read_json
from hn.utils.json_types import require_types
from hn.utils.text import require_unicode, some_of

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

METADATA = "metadata.json"  # of `hn generate`

GENEVAL_METADATA = "metadata.jsonl"

GENEVAL_SAMPLES = "samples"

_NAMED = 8  # files in a message

_NOT_GENERATED = "Without the file, the folder's images are read in the order of their names."


def read_image_folder(
    folder: PathLike, prompts: PathLike | None = None, images_per_prompt: int | None = None
) -> list[ImageFile]:
    """The PNG, JPEG and WebP files of a folder with their prompts; no image is opened.

    Three layouts:
        what `hn generate` writes: `metadata.json` names the files, in its order, and their prompts and methods;
        GenEval's, which `hn predict` writes: `00000/metadata.jsonl` with the prompt, and `00000/samples/0000.png, ...`;
        any other folder: its files, not those below, in the order of their names.

    Args:
        folder: of the images.
        prompts: file of prompts as `read_prompts` takes it, for a folder without prompts of its own: the first prompt
            is of the first `images_per_prompt` images, and so on.
        images_per_prompt: 1 if not given.

    Raises:
        FileNotFoundError: if the folder, the file of prompts, or an image that `metadata.json` names is missing.
        ValueError: if there are no images, their number does not fit that of the prompts, prompts are given twice or
            are empty, or the metadata are wrong.
    """
    folder = Path(folder)
    if images_per_prompt is not None and images_per_prompt < 1:
        raise ValueError(f"images_per_prompt must be at least 1, not {images_per_prompt}.")
    if images_per_prompt is not None and prompts is None:
        raise ValueError("images_per_prompt says how the prompts of a file belong to the images; name that file.")
    _require_folder(folder)
    has_prompts = METADATA if (folder / METADATA).is_file() else GENEVAL_METADATA if _geneval_folders(folder) else None
    if has_prompts and prompts is not None:
        raise ValueError(
            f"{folder} has the prompts of its images itself ({has_prompts}); leave the file of prompts out, or move "
            "the images to a folder of their own."
        )
    if has_prompts == METADATA:
        return _of_generate(folder)
    if has_prompts:
        return _of_geneval(folder)
    paths = _images_in(folder)
    if not paths:
        raise ValueError(_nothing_in(folder))
    if prompts is None:
        return [ImageFile(path) for path in paths]
    return _with_prompts(folder, paths, Path(prompts), images_per_prompt or 1)


def read_geneval_folder(folder: PathLike) -> list[ImageFile]:
    """The images of a folder in GenEval's layout with the rows of their prompts; no image is opened.

    Args:
        folder: holds `00000/metadata.jsonl` with one row and `00000/samples/0000.png, ...`, and so on.

    Raises:
        FileNotFoundError: if the folder or a `metadata.jsonl` is missing.
        ValueError: if there are no such folders, a prompt has no images, or a row is not one of GenEval's.
    """
    folder = Path(folder)
    _require_folder(folder)
    numbered = [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]
    if not numbered:
        raise ValueError(
            f"{folder} is not in GenEval's layout: it has no folders 00000, 00001, ... with {GENEVAL_METADATA} and "
            f"{GENEVAL_SAMPLES}/0000.png, as `hn predict` writes them."
        )
    missing = sorted(path.name for path in numbered if not (path / GENEVAL_METADATA).is_file())
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {GENEVAL_METADATA}, the row of the prompt, in {_listed(missing)}. Add it, or remove "
            "these folders."
        )
    files = _of_geneval(folder)
    for path, file in {file.path.parents[1]: file for file in files}.items():
        _check_geneval_row(path / GENEVAL_METADATA, file.row)
    return files


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}{', it is a file' if folder.is_file() else ''}.")


def _images_in(folder: Path) -> list[Path]:
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")
    )
    for path in paths:
        require_unicode(str(path), "The file name")
    return paths


def _geneval_folders(folder: Path) -> list[Path]:
    numbered = (path for path in folder.iterdir() if path.name.isdigit() and (path / GENEVAL_METADATA).is_file())
    return sorted(numbered, key=lambda path: (int(path.name), path.name))


def _of_generate(folder: Path) -> list[ImageFile]:
    path = folder / METADATA
    entries = read_json(path, _NOT_GENERATED).get("images")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} is not what `hn generate` writes: `images`, a list of objects. {_NOT_GENERATED}")
    if not entries:
        raise ValueError(f"{path} names no images.")
    types = {"file": str, "prompt": str, "method": str | None}
    for number, entry in enumerate(entries):
        require_types(entry, types, f"{path}, images[{number}]", ("file", "prompt"), _NOT_GENERATED)
        _require_within(folder, entry["file"], path)
        if not entry["prompt"].strip():
            raise ValueError(f"{path}: the prompt of {entry['file']} is empty.")
    missing = [entry["file"] for entry in entries if not (folder / entry["file"]).is_file()]
    if missing:
        raise FileNotFoundError(f"{path} names images that {folder} does not have: {_listed(missing)}.")
    return [ImageFile(folder / entry["file"], entry["prompt"], entry.get("method")) for entry in entries]


def _require_within(folder: Path, name: str, listed_in: Path) -> None:
    """Refuse the name of a file that may be anywhere: the list may be a download, and its images are shown or scored.

    Raises:
        ValueError: if the name leads outside of the folder; names it.
    """
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(
            f"{listed_in} names the image {name!r}, which is not a path within {folder}: nothing outside of the list's "
            "own folder is read. Move the image there, and name it relative to that folder."
        )


def _of_geneval(folder: Path) -> list[ImageFile]:
    return [file for numbered in _geneval_folders(folder) for file in _of_geneval_prompt(numbered)]


def _of_geneval_prompt(folder: Path) -> Iterator[ImageFile]:
    rows: list[dict[str, Any]] = read_prompts(folder / GENEVAL_METADATA)
    if len(rows) != 1:
        raise ValueError(f"{folder / GENEVAL_METADATA} has {len(rows)} rows; it is to have one, the prompt's.")
    samples = folder / GENEVAL_SAMPLES
    paths = _images_in(samples) if samples.is_dir() else []
    if not paths:
        raise ValueError(f"{samples} has no images ({', '.join(ENDINGS)}).")
    for path in paths:
        yield ImageFile(path, rows[0]["prompt"], metadata=rows[0])


def _check_geneval_row(path: Path, row: Mapping[str, Any]) -> None:
    clauses = [*(row.get("include") or ()), *(row.get("exclude") or ())]
    if not (
        isinstance(row.get("tag"), str)
        and row.get("include")
        and all(isinstance(clause, dict) and {"class", "count"} <= clause.keys() for clause in clauses)
    ):
        raise ValueError(
            f"{path} is no row of GenEval's: it needs `tag`, and `include` with clauses that have `class` and `count`."
        )


def _with_prompts(folder: Path, paths: Sequence[Path], file: Path, images_per_prompt: int) -> list[ImageFile]:
    prompts = [row["prompt"] for row in read_prompts(file)]
    if len(prompts) * images_per_prompt != len(paths):
        blank = "; blank lines do not count" if file.suffix == ".txt" else ""
        several, rest = divmod(len(paths), len(prompts))
        fits = rest == 0 and several > 1 and images_per_prompt == 1
        raise ValueError(
            f"{folder} has {len(paths)} images, but {file} has {len(prompts)} prompts{blank}. With {images_per_prompt} "
            f"{'images' if images_per_prompt > 1 else 'image'} of each prompt these have to be "
            f"{len(prompts) * images_per_prompt} images"
            + (f"; if {several} in a row are of one prompt, say --images_per_prompt {several}." if fits else ".")
        )
    return [ImageFile(path, prompts[i // images_per_prompt]) for i, path in enumerate(paths)]


def _nothing_in(folder: Path) -> str:
    message = f"{folder} has no images ({', '.join(ENDINGS)})"
    below = (path for path in sorted(folder.iterdir()) if path.is_dir())
    meant = next((path for path in below if _geneval_folders(path) or _images_in(path)), None)
    return f"{message}." if meant is None else f"{message}; did you mean {meant}?"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


_NUMBERED = re.compile(r"(?P<prompt>.+)_\d+")  # T2I-CompBench's names of images, without their ending


def read_benchmark_images(source: PathLike) -> list[ImageFile]:
    """Images with their prompts, and with the prompts' rows where the layout has them; no image is opened.

    Four layouts:
        what `hn predict` and `hn generate` write, see `read_image_folder`;
        T2I-CompBench's: `samples/<prompt>_000000.png, ...` in a folder, or the folder `samples` itself;
        GenEval 2's: a .json file, an object with prompts as keys and paths of images as values; these are relative to
        the file's folder, or else to the working directory, and lie within the file's folder.

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
    return files


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
    counts = Counter((file.path.parent, file.prompt) for file in files)  # in GenEval's layout a prompt has a folder
    usual, _ = Counter(counts.values()).most_common(1)[0]
    uneven = {f"{prompt!r} in {folder} ({count})" for (folder, prompt), count in counts.items() if count != usual}
    if uneven:
        raise ValueError(
            f"Most prompts have {usual} image{'s' if usual > 1 else ''}, {len(uneven)} have another number: "
            f"{some_of(uneven)}. Make the missing ones, or take them as they are with --allow_uneven."
        )


def _of_mapping(path: Path) -> list[ImageFile]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    content = read_json(path)
    if not content or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f'{path} is to be an object of prompts and paths of images, like {{"a dog": "0.png"}}.')
    found, folder = {}, path.parent.absolute()
    for prompt, name in content.items():
        own = str(Path(name).relative_to(folder)) if Path(name).is_relative_to(folder) else name
        _require_within(path.parent, own, path)
        beside, here = path.parent / own, Path(own)
        found[prompt] = here if here.absolute().is_relative_to(folder) and not beside.is_file() else beside
    missing = {content[prompt] for prompt, place in found.items() if not place.is_file()}
    if missing:
        raise FileNotFoundError(f"{path} names {len(missing)} images that are not there: {some_of(missing)}.")
    return [ImageFile(place, prompt) for prompt, place in found.items()]


def _named_after_prompt(file: ImageFile) -> ImageFile:
    match = _NUMBERED.fullmatch(file.path.stem)
    if match is None:
        raise ValueError(
            f"Nothing says what {file.path} is of: it is not named like 'a red car_000000.png', and its folder is not "
            "one that `hn predict` or `hn generate` wrote. GenEval 2's file of prompts and paths is taken too."
        )
    return replace(file, prompt=match["prompt"])
