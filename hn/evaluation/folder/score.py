"""Scores of images on disk, written line by line to a file that several processes may share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from hn.data.download import digest
from hn.data.encodings.fingerprint import weights_versions
from hn.evaluation.benchmarks.geneval_results import read_results, write_results
from hn.evaluation.folder.images import ImageFile, load_with_digest, size_batches
from hn.evaluation.folder.shard import WorkShard, shard_files
from hn.utils.environment import environment
from hn.utils.files import write_json
from hn.utils.progress import with_progress
from hn.utils.text import say, some_of

Line = Mapping[str, Any]
"""The scores of one image: `filename`, the prompt's row as JSON under `metadata`, and more."""

DIGEST = "sha256"
"""Last field of every line on disk: of the bytes of the image's file, by which a line is known to be of that image."""

FIELDS = ("filename", "prompt", "scores", "details", "metadata")
"""Of a line in our own format, besides `DIGEST`; GenEval's has other ones."""

BatchScorer = Callable[[Sequence[str], Tensor, Sequence[Mapping[str, Any]]], list[Line]]
"""(B file names, images [B, 3, H, W] in [0, 1] on the device, rows of their prompts) -> B lines."""

Statistics = dict[str, float | None]
"""`mean` and `std` (divided by N - 1) of the finite scores; None where there are too few. Where some scores are not
finite: `n`, how many are."""

Summary = TypeVar("Summary")


def line_of(name: str, row: Mapping[str, Any], scores: Mapping[str, float | None], details: Mapping[str, Any]) -> Line:
    """A line with `FIELDS`; `metadata` is JSON inside JSON, as in GenEval's lines."""
    return dict(zip(FIELDS, (name, row["prompt"], scores, details, json.dumps(row)), strict=True))


class FolderMetric(ABC, Generic[Summary]):
    """A metric of images on disk: how it is loaded, the lines of its results, and their summary.

    Args:
        name: of the metric and of its results file.
        settings: what the scores depend on, as JSON has it; results with other settings are not mixed in one file.

    Attributes:
        fields: of every line, in their order; `filename` and `metadata` are among them.
    """

    fields: ClassVar[Sequence[str]] = FIELDS

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name, self.settings = name, settings

    @cached_property
    def weights(self) -> dict[str, str]:
        """Versions of the weights that the settings name."""
        return weights_versions(self.settings)

    def choose(self, files: Sequence[ImageFile]) -> list[ImageFile]:
        """The images that this metric can score.

        Raises:
            ValueError: if there are none, or the row of a prompt is not as it has to be.
        """
        return list(files)

    @abstractmethod
    def load(self, files: Sequence[ImageFile], device: torch.device | str) -> BatchScorer:
        """Load the weights; called before the first batch, and not at all if there is nothing left to do.

        Raises:
            ValueError: if one of the files is none that this metric can score.
        """

    @abstractmethod
    def summarize(self, lines: Sequence[Line], files: Mapping[str, ImageFile]) -> Summary:
        """The summary of all lines: dataclasses, or what JSON has. `files` are by name."""

    def values(self, line: Line) -> Mapping[str, float | None]:
        """The scores of one image by name."""
        return line["scores"]

    def statistics(self, lines: Sequence[Line]) -> dict[str, Statistics]:
        """The mean of each score, and the deviation where the mean is the plain one of the images."""
        scores = [self.values(line) for line in lines]
        return {name: _statistics([of_image[name] for of_image in scores]) for name in (scores[0] if scores else ())}


@dataclass(frozen=True, slots=True)
class Results(Generic[Summary]):
    """What is known when one process has done its share.

    Attributes:
        lines: by the image's file name, in the order of the files.
        summary: None while lines of other processes are missing.
        missing: how many these are.
        unreadable: what is wrong with images that cannot be read, by file name.
    """

    lines: Mapping[str, Line]
    summary: Summary | None
    missing: int
    unreadable: Mapping[str, str]


def score_files(
    metric: FolderMetric[Summary],
    files: Sequence[ImageFile],
    sizes: Mapping[Path, tuple[int, int] | str],
    output: Path,
    facts: Mapping[str, Any],
    folder: Path,
    batch_size: int,
    device: torch.device | str,
    shard: WorkShard,
) -> Results[Summary]:
    """Write the scores of each image to `output`, and a summary beside it.

    Lines that are there already are kept, as `kept_lines` says; the others are replaced, and said to be. Batches are
    the same however often it was interrupted and however many processes share them, and those begun are done again: so
    the file is the same too. A shard's lines go to a file of its own beside `output`; the shard that finds no other
    one's missing joins them.

    Args:
        metric: what scores.
        files: the images, with the rows of their prompts.
        sizes: height and width of each, or what is wrong with it; such images are left out.
        output: file of JSON lines.
        facts: more entries of the summary's file.
        folder: that files are named relative to, those in it.
        batch_size: images scored at once; images of different sizes are never.
        device: where to compute.
        shard: share of the batches to score.

    Raises:
        ValueError: if no image can be read, one is there twice, there are results with other settings, or one of the
            files is none that this metric can score.
    """
    require_same_settings(output, metric)
    by_name = files_by_name(files, folder)
    unreadable = {name: size for name, file in by_name.items() if isinstance(size := sizes[file.path], str)}
    readable = [name for name in by_name if name not in unreadable]
    if not readable:
        raise ValueError(f"No image of {folder} can be read: {next(iter(unreadable.values()))}")
    groups = size_batches([sizes[by_name[name].path] for name in readable], batch_size)
    share = shard.of([[readable[place] for place in group] for group in groups])
    own, found = shard.file(output), read_lines(result_files(output), metric.fields)
    content_of = cache(sha256)  # each file is read once
    kept = kept_lines(found, by_name, content_of)
    to_do = [batch for batch in share if any(name not in kept for name in batch)]
    own_lines = kept_lines(read_lines([own], metric.fields), by_name, content_of)
    mine = {name for batch in share for name in batch} | own_lines.keys()
    mine -= {name for batch in to_do for name in batch}
    score_batch = metric.load(files, device) if to_do else None  # before anything is written
    if replaced := len({line["filename"] for line in found} - kept.keys()):
        say(f"note: {replaced} scores in {output} are of other images or prompts, and are replaced")
    content = {"environment": environment(), **metric.settings, "weights": metric.weights, **facts}
    own.parent.mkdir(parents=True, exist_ok=True)
    write_json(summary_file(own), content)
    _write_lines(own, [kept[name] for name in by_name if name in kept and name in mine], metric)
    title = metric.name if shard.count == 1 else f"{metric.name} {shard}"
    batches = with_progress(to_do, title) if to_do else ()
    scored = _score_batches(score_batch, batches, by_name, own, device) if score_batch else {}
    return _join(metric, output, by_name, scored, content, unreadable)


def _score_batches(
    score_batch: BatchScorer,
    batches: Iterable[Sequence[str]],
    files: Mapping[str, ImageFile],
    own: Path,
    device: torch.device | str,
) -> dict[str, Line]:
    """Append the lines of batches of images to a file; returns them by name."""
    scored: dict[str, Line] = {}
    with own.open("a", encoding="utf-8") as results, ThreadPoolExecutor() as pool:
        for batch in batches:
            images, digests = zip(*pool.map(load_with_digest, [files[name].path for name in batch]), strict=True)
            lines = score_batch(batch, torch.stack(images).to(device), [files[name].row for name in batch])
            lines = [{**line, DIGEST: of_image} for line, of_image in zip(lines, digests, strict=True)]
            scored |= zip(batch, lines, strict=True)
            results.write("".join(json.dumps(line) + "\n" for line in lines))
            results.flush()
    return scored


def _join(
    metric: FolderMetric[Summary],
    output: Path,
    by_name: Mapping[str, ImageFile],
    scored: Mapping[str, Line],
    content: Mapping[str, Any],
    unreadable: Mapping[str, str],
) -> Results[Summary]:
    """Make one file of all lines, with its summary, once they are all there. Two shards may do it at once."""
    found = kept_lines(read_lines(result_files(output), metric.fields), by_name) | scored
    lines = {name: found[name] for name in by_name if name in found}
    missing = sum(name not in found and name not in unreadable for name in by_name)
    if missing:
        return Results(lines, None, missing, unreadable)
    summary = metric.summarize([*lines.values()], by_name)
    content = {**content, "summary": json.loads(json.dumps(summary, default=asdict)), "unreadable": unreadable}
    write_json(summary_file(output), content, durable=True)
    _write_lines(output, lines.values(), metric)
    for file in shard_files(output):
        file.unlink(missing_ok=True)
        summary_file(file).unlink(missing_ok=True)
    return Results(lines, summary, 0, unreadable)


def summary_file(output: Path) -> Path:
    """Where the summary of a results file is."""
    return output.with_suffix(".summary.json")


def result_files(output: Path) -> list[Path]:
    """The results file and those of its shards, as far as they are there.

    The shards' come first: when they vanish, the whole one has all they had.
    """
    return [*shard_files(output), *([output] if output.is_file() else [])]


def require_same_settings(output: Path, metric: FolderMetric) -> None:
    """Raises:
    ValueError: if there is a results file, or a shard's, that cannot be continued: it was made with other settings or
        weights.
    """
    for results in result_files(output):
        try:
            earlier = json.loads(summary_file(results).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if not results.exists():  # another shard has just joined them all
                continue
            raise ValueError(
                f"{results} is there already and {summary_file(results).name}, which says with what settings it was "
                "made, is not; choose another --output, or remove it."
            ) from None
        settings = metric.settings.items()
        changed = [name for name, value in settings if earlier.get(name) != json.loads(json.dumps(value))]
        before = earlier.get("weights") or {}
        if any(before.get(name, version) != version for name, version in metric.weights.items()):
            changed.append("weights")
        if changed:
            raise ValueError(
                f"{results} has scores with other settings ({' and '.join(changed)} differ, see "
                f"{summary_file(results).name}); choose another --output, or remove it."
            )


def require_no_loss(output: Path, metric: FolderMetric, files: Mapping[str, ImageFile], folder: Path) -> None:
    """Refuse to replace scores that still hold, those of images in the folder that are not to be scored now.

    Args:
        output: the results file.
        metric: of these results.
        files: the images to score, by name.
        folder: that names are relative to.

    Raises:
        ValueError: if there are such scores.
    """
    others = [line for line in read_lines(result_files(output), metric.fields) if line["filename"] not in files]
    paths = [(folder / line["filename"], line.get(DIGEST)) for line in others]
    lost = {str(path) for path, of_image in paths if path.is_file() and sha256(path) == of_image}
    if lost:
        raise ValueError(
            f"{output} has scores of {len(lost)} images that are not among those to score now ({some_of(lost)}), and "
            "would lose them; choose another --output, or remove it."
        )


def read_lines(results: Sequence[Path], fields: Sequence[str]) -> list[Line]:
    """All lines of results files, those of a later file behind those of an earlier one.

    Args:
        results: missing ones are passed over.
        fields: that every line has.

    Raises:
        ValueError: if a line is not as it has to be.
    """
    found: list[Line] = []
    for path in results:
        try:
            found += read_results(path, is_growing=True, fields=fields)
        except FileNotFoundError:  # not there yet, or another shard has just joined them all
            continue
    return found


def sha256(path: Path) -> str:
    """Of the content of a file."""
    return digest(path, "sha256")


def kept_lines(
    lines: Iterable[Line], files: Mapping[str, ImageFile], content_of: Callable[[Path], str] = sha256
) -> dict[str, Line]:
    """Lines that still hold, by name: the row of the prompt is the same, and the image's file has the same content.

    Args:
        lines: as they were read.
        files: by name, with the rows of their prompts.
        content_of: the SHA-256 of a file, where some are known.
    """

    def holds(line: Line) -> bool:
        file = files.get(line["filename"])
        same_row = file is not None and line["metadata"] == json.dumps(file.row)
        return same_row and line.get(DIGEST) == content_of(file.path)

    lines = list(lines)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        return {line["filename"]: line for line, is_kept in zip(lines, pool.map(holds, lines), strict=True) if is_kept}


def _write_lines(path: Path, lines: Iterable[Line], metric: FolderMetric) -> None:
    write_results(path, lines, (*metric.fields, DIGEST))


def files_by_name(files: Sequence[ImageFile], folder: Path) -> dict[str, ImageFile]:
    """The files by what they are called in results: the path in the folder, or all of it where one lies elsewhere.

    Raises:
        ValueError: if an image is there twice, so that a line could not say of which prompt it is.
    """
    by_name: dict[str, ImageFile] = {}
    for file in files:
        path = file.path.relative_to(folder) if file.path.is_relative_to(folder) else file.path
        if (other := by_name.setdefault(path.as_posix(), file)) is not file:
            raise ValueError(
                f"{file.path} is said to be of two prompts, {other.prompt!r} and {file.prompt!r}; name each image once."
            )
    return by_name


def by_method(lines: Iterable[Line], files: Mapping[str, ImageFile]) -> dict[str | None, list[Line]]:
    """The lines by the method that made the image; None where nothing says so."""
    methods: dict[str | None, list[Line]] = {}
    for line in lines:
        methods.setdefault(files[line["filename"]].method, []).append(line)
    return methods


def _statistics(values: Sequence[float | None]) -> Statistics:
    """In float64; None stands for what is not finite."""
    finite = [value for value in values if value is not None]
    statistics: Statistics = {
        "mean": float(np.mean(finite)) if finite else None,
        "std": float(np.std(finite, ddof=1)) if len(finite) > 1 else None,
    }
    return statistics if len(finite) == len(values) else {**statistics, "n": len(finite)}
