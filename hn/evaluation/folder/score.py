"""Images on disk judged in batches, line by line to a file that several processes may write together."""

from __future__ import annotations

import glob
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from hn.evaluation.benchmarks.geneval_results import read_results, write_results
from hn.evaluation.folder.images import ImageFile, load_image, size_batches
from hn.utils.environment import environment
from hn.utils.files import write_json
from hn.utils.progress import with_progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """The share of one of `count` processes: every `count`-th piece of the work, from piece `number` on.

    Args:
        number: 0, ..., count - 1.
        count: of processes.

    Raises:
        ValueError: if there is no such share.
    """

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(f"There is no shard {self}; of {self.count} they are 0 to {self.count - 1}.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """`0/4`: the first of four.

        Raises:
            ValueError: if the text says no share.
        """
        found = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
        if found is None:
            raise ValueError(f"A shard is its number, from 0 on, and how many there are, like 0/4; not {text!r}.")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """This process's among those that `torchrun` started (`RANK` and `WORLD_SIZE`); the whole without it.

        Raises:
            ValueError: if the variables say no share.
        """
        if not {"RANK", "WORLD_SIZE"} <= environment.keys():
            return cls()
        return cls.parse(f"{environment['RANK']}/{environment['WORLD_SIZE']}")

    def of(self, pieces: Sequence[T]) -> Sequence[T]:
        """The pieces that are this share's."""
        return pieces[self.number :: self.count]

    def file(self, path: Path) -> Path:
        """Where this share of a file is written: the file itself if there are no others."""
        if self.count == 1:
            return path
        return path.with_name(f"{path.stem}.shard-{self.number}-of-{self.count}{path.suffix}")


def shard_files(path: Path) -> list[Path]:
    """Files of any shards of a file that are there."""
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.shard-*-of-*{glob.escape(path.suffix)}"))


Line = Mapping[str, Any]
"""What was said of one image: `filename`, the prompt's row as JSON under `metadata`, and more."""


def summary_file(output: Path) -> Path:
    """Where the summary of a results file is."""
    return output.with_suffix(".summary.json")


def result_files(output: Path) -> list[Path]:
    """The results file and those of its shards, as far as they are there.

    The shards' come first: when they vanish, the whole one has all they had.
    """
    return [*shard_files(output), *([output] if output.is_file() else [])]


def require_same_judge(output: Path, facts: Mapping[str, Any], entries: Sequence[str]) -> None:
    """Raises:
    ValueError: if there is a results file, or a shard's, that this judge cannot continue: one of these entries of
        `facts` differs.
    """
    for results in result_files(output):
        try:
            earlier = json.loads(summary_file(results).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if not results.exists():  # another shard has just joined them all
                continue
            raise ValueError(
                f"{results} is there already and {summary_file(results).name}, which says what judged it, is not; "
                "choose another --output, or remove it."
            ) from None
        changed = [name for name in entries if earlier.get(name) != json.loads(json.dumps(facts[name]))]
        if changed:
            raise ValueError(
                f"{results} has verdicts by another judge ({' and '.join(changed)} differ, see "
                f"{summary_file(results).name}); choose another --output, or remove it."
            )


def kept_lines(results: Sequence[Path], files: Mapping[str, ImageFile], fields: Sequence[str]) -> dict[str, Line]:
    """Lines of results files that still hold, by name of the image's file: the row of the prompt is the same, and the
    image is not newer than the file.

    Args:
        results: missing ones are passed over.
        files: by name, with the rows of their prompts.
        fields: that every line has.

    Raises:
        ValueError: if a line is not as it has to be.
    """
    kept = {}
    for path in results:
        try:
            written = path.stat().st_mtime_ns
            lines = read_results(path, is_growing=True, fields=fields)
        except FileNotFoundError:  # not there yet, or another shard has just joined them all
            continue
        kept |= {
            line["filename"]: line
            for line in lines
            if (file := files.get(line["filename"])) is not None
            and line["metadata"] == json.dumps(file.metadata)
            and file.path.stat().st_mtime_ns <= written
        }
    return kept


Summary = TypeVar("Summary")


class Judging(ABC, Generic[Summary]):
    """What `judge_files` leaves to a benchmark: who judges, the lines of the results, and their summary.

    Attributes:
        name: for the progress.
        fields: of every line, in their order; `filename` and `metadata` are among them.
        depends_on: entries of the summary's file that make a judge: results of two are not mixed in one file.
    """

    name: ClassVar[str]
    fields: ClassVar[Sequence[str]]
    depends_on: ClassVar[Sequence[str]]

    @abstractmethod
    def load(self, files: Sequence[ImageFile], device: torch.device | str) -> None:
        """Load the weights; called before the first batch, and not at all if there is nothing left to do.

        Raises:
            ValueError: if one of the files is none that this can judge.
        """

    @abstractmethod
    def lines(self, names: Sequence[str], images: Tensor, rows: Sequence[Mapping[str, Any]]) -> list[Line]:
        """The lines of one batch.

        Args:
            names: B names of files.
            images: [B, 3, H, W] in [0, 1], float32, on the device.
            rows: of their prompts.
        """

    @abstractmethod
    def summarize(self, lines: Sequence[Line], files: Mapping[str, ImageFile]) -> Summary:
        """The summary of all lines; `files` by name."""

    @abstractmethod
    def as_json(self, summary: Summary) -> Any:
        """The summary as JSON has it."""

    @abstractmethod
    def table(self, summary: Summary) -> str:
        """The summary for the terminal."""


def judge_files(
    judging: Judging[Summary],
    files: Sequence[ImageFile],
    sizes: Sequence[tuple[int, int] | str],
    output: Path,
    facts: Mapping[str, Any],
    folder: Path,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    shard: Shard | None = None,
) -> Summary | None:
    """Write what is said of each image to `output`, a summary beside it, and print a table.

    Lines that are there already are kept, if the image is not newer than the file and the row of its prompt is the
    same. Batches are the same however often it was interrupted and whoever judges them, and those begun are done again:
    so the file is too.

    A shard's lines go to a file of its own beside `output`; the shard that finds no other one's missing joins them.

    Args:
        judging: the benchmark.
        files: what to judge, with the rows of the prompts.
        sizes: height and width of each, or what is wrong with it; such images are left out and named.
        output: of JSON lines.
        facts: entries of the summary's file: those of `judging.depends_on` and others.
        folder: that files are named relative to, those in it.
        batch_size: images judged at once; images of different sizes are never.
        device: where to compute.
        shard: share of the batches to judge; all of them if not given.

    Returns:
        The summary; None if other shards' lines are missing.

    Raises:
        ValueError: if no image can be read, one is there twice, there are results by another judge, or one of the files
            is none that this one can judge.
    """
    shard = Shard() if shard is None else shard
    require_same_judge(output, facts, judging.depends_on)
    by_name = _by_name(files, folder)
    size_of = dict(zip(by_name, sizes, strict=True))
    unreadable = {name: size for name, size in size_of.items() if isinstance(size, str)}
    readable = [name for name in by_name if name not in unreadable]
    if not readable:
        raise ValueError(f"No image of {folder} can be read: {sizes[0]}")
    batches = [[readable[i] for i in batch] for batch in size_batches([size_of[n] for n in readable], batch_size)]
    share = shard.of(batches)
    own = shard.file(output)
    kept = kept_lines(result_files(output), by_name, judging.fields)
    to_do = [batch for batch in share if any(name not in kept for name in batch)]
    begun = {name for batch in to_do for name in batch}
    mine = {name for batch in share for name in batch} | kept_lines([own], by_name, judging.fields).keys()
    if to_do:  # before anything is written
        judging.load(files, device)

    own.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), **facts}
    write_json(summary_file(own), content)
    write_results(own, [kept[name] for name in by_name if name in kept and name in mine - begun], judging.fields)
    judged: dict[str, Line] = {}
    title = judging.name if shard.count == 1 else f"{judging.name} {shard}"
    with own.open("a", encoding="utf-8") as results, ThreadPoolExecutor() as pool:
        for batch in with_progress(to_do, title) if to_do else ():
            images = torch.stack(list(pool.map(load_image, [by_name[name].path for name in batch]))).to(device)
            lines = judging.lines(batch, images, [by_name[name].metadata for name in batch])
            judged |= zip(batch, lines, strict=True)
            results.write("".join(json.dumps(line) + "\n" for line in lines))
            results.flush()
    return _join(judging, output, shard, by_name, judged, content, unreadable)


def _join(
    judging: Judging[Summary],
    output: Path,
    shard: Shard,
    by_name: Mapping[str, ImageFile],
    judged: Mapping[str, Line],
    content: Mapping[str, Any],
    unreadable: Mapping[str, str],
) -> Summary | None:
    """Make one file of all lines, with its summary, once they are all there. Two shards may do it at once."""
    found = kept_lines(result_files(output), by_name, judging.fields) | judged
    missing = sum(name not in found and name not in unreadable for name in by_name)
    if missing:
        print(f"shard {shard} is done; {missing} images of the others are not judged yet")
        return None
    lines = [found[name] for name in by_name if name in found]
    summary = judging.summarize(lines, by_name)
    content = {**content, "summary": judging.as_json(summary), "unreadable": unreadable}
    write_json(summary_file(output), content, durable=True)
    write_results(output, lines, judging.fields)
    for file in shard_files(output):
        file.unlink(missing_ok=True)
        summary_file(file).unlink(missing_ok=True)
    print(f"{judging.table(summary)}\n\nresults      {output} and {summary_file(output).name}")
    _warn_of_unreadable([*unreadable.values()])
    return summary


def _by_name(files: Sequence[ImageFile], folder: Path) -> dict[str, ImageFile]:
    """The files by what they are called in the results: the path in the folder, or all of it where one lies elsewhere.

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


def _warn_of_unreadable(complaints: Sequence[str]) -> None:
    """Print how many images cannot be read, and what is wrong with the first of them; nothing if there are none."""
    if complaints:
        several = len(complaints) > 1
        count = f"{len(complaints)} image{'s' if several else ''}"
        print(f"warning: {count} cannot be read and {'are' if several else 'is'} not in the scores:")
        print("\n".join([*complaints[:8], *(["..."] if len(complaints) > 8 else [])]))
