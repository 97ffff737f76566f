"""A judge's scores of images on disk: JSON lines, a summary beside them, and a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from hn.data.images import ImageFile, load_image, size_batches
from hn.evaluation.geneval_results import read_results
from hn.evaluation.judges import Judge, Judgement, ScoreGroup
from hn.files import in_one_step
from hn.geneval import kept_rows, require_same_judge, summary_file, warn_of_unreadable
from hn.report.images import write_json
from hn.report.judge import judge_table
from hn.report.progress import with_progress
from hn.report.results import environment

JUDGE = ("judge",)
"""Entries of the summary that scores depend on: those of two judges are not mixed in one file."""

FIELDS = ("filename", "prompt", "scores", "details", "metadata")


def judge_images(
    files: Sequence[ImageFile],
    sizes: Sequence[tuple[int, int] | str],
    judge_class: type[Judge],
    make_judge: Callable[[], Judge],
    output: Path,
    facts: Mapping[str, Any],
    folder: Path,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> list[ScoreGroup]:
    """Write a judge's scores of each image to `output`, a summary beside it, and print a table.

    It continues as `hn.geneval.judge_files` does: lines that are there already are kept, if the image is not newer than
    the file and the row of its prompt is the same; batches are the same however often it was interrupted.

    Args:
        files: what to judge, with rows that the judge `asks`.
        sizes: height and width of each, or what is wrong with it; such images are left out and named.
        judge_class: of the judge.
        make_judge: loads it; not called if there is nothing left to do.
        output: of JSON lines: `filename`, `prompt`, `scores`, `details`, and the prompt's row as JSON in `metadata`.
        facts: entries of the summary: those of `JUDGE` and others.
        folder: that files are named relative to, those in it.
        batch_size: images judged at once; images of different sizes are never.
        device: where to compute.

    Returns:
        The means.

    Raises:
        ValueError: if no image can be read, the file's scores are another judge's, or a row is not as it has to be.
    """
    require_same_judge(output, facts, JUDGE)
    broken = {place: size for place, size in enumerate(sizes) if isinstance(size, str)}
    readable = [place for place in range(len(files)) if place not in broken]
    if not readable:
        raise ValueError(f"No image of {folder} can be read: {broken[0]}")
    names = [name_in(folder, file.path) for file in files]
    kept = kept_rows([output], dict(zip(names, files, strict=True)), read_lines)
    places = [[readable[i] for i in batch] for batch in size_batches([sizes[i] for i in readable], batch_size)]
    to_do = [batch for batch in places if any(names[place] not in kept for place in batch)]
    again = {names[place] for batch in to_do for place in batch}
    lines = {name: line for name, line in kept.items() if name not in again}
    judge = make_judge().to(device) if to_do else None  # before anything is written

    output.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), **facts}
    write_json(summary_file(output), content)
    write_lines(output, [lines[name] for name in names if name in lines])
    with output.open("a", encoding="utf-8") as results, ThreadPoolExecutor() as pool:
        for batch in with_progress(to_do, "judge") if to_do else ():
            images = torch.stack(list(pool.map(load_image, [files[place].path for place in batch]))).to(device)
            judgements = judge.judge(images, [files[place].metadata for place in batch])
            for place, judgement in zip(batch, judgements, strict=True):
                lines[names[place]] = result_line(names[place], files[place].metadata, judgement)
            results.write("".join(json.dumps(lines[names[place]]) + "\n" for place in batch))
            results.flush()
    ordered = [lines[name] for name in names if name in lines]
    write_lines(output, ordered)
    groups = summarize(judge_class, ordered, {name: file.method for name, file in zip(names, files, strict=True)})
    unreadable = {names[place]: complaint for place, complaint in broken.items()}
    write_json(
        summary_file(output), content | {"summary": [asdict(group) for group in groups], "unreadable": unreadable}
    )
    print(f"{judge_table(groups)}\n\nresults      {output} and {summary_file(output).name}")
    warn_of_unreadable(list(broken.values()))
    return groups


def summarize(
    judge_class: type[Judge], lines: Sequence[Mapping[str, Any]], methods: Mapping[str, str | None]
) -> list[ScoreGroup]:
    """The judge's means, of each method where there are several; `methods` says by file name what made an image."""
    by_method: dict[str | None, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_method.setdefault(methods[line["filename"]], []).append(line)
    if len(by_method) == 1:
        return judge_class.summarize(lines)
    return [
        replace(group, name=f"{method}: {group.name}")
        for method, made in by_method.items()
        for group in judge_class.summarize(made)
    ]


def result_line(filename: str, row: Mapping[str, Any], judgement: Judgement) -> dict[str, Any]:
    """One line of the results; `metadata` is JSON inside JSON, as in GenEval's."""
    return {"filename": filename, "prompt": row["prompt"], **asdict(judgement), "metadata": json.dumps(row)}


def read_lines(path: Path, is_growing: bool = False) -> list[dict[str, Any]]:
    """The lines of a results file; see `hn.evaluation.geneval_results.read_results`."""
    return read_results(path, is_growing, FIELDS)


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a results file in one step."""
    with in_one_step(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def name_in(folder: Path, path: Path) -> str:
    """A file's name relative to the folder, or its path where it lies elsewhere."""
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
