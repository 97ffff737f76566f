"""GenEval's verdicts on images on disk: the official results file, a summary beside it, and a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hn.data.images import GENEVAL_METADATA, ImageFile, load_image, size_batches
from hn.evaluation.detectors.base import Detector, judge
from hn.evaluation.geneval import COLORS, RELATIONS, VerdictOptions
from hn.evaluation.geneval_results import GenevalSummary, read_results, result_row, summarize, write_results
from hn.files import in_one_step
from hn.report.geneval import geneval_table
from hn.report.images import write_json
from hn.report.progress import with_progress
from hn.report.results import environment
from hn.shard import Shard, shard_files

JUDGE = ("detector", "options")
"""Entries of the summary that verdicts depend on: those of two judges are not mixed in one file."""


def summary_file(output: Path) -> Path:
    """Where the summary of a results file is."""
    return output.with_suffix(".summary.json")


def require_same_judge(output: Path, facts: Mapping[str, Any], entries: Sequence[str] = JUDGE) -> None:
    """Raises:
    ValueError: if there is a results file, or a shard's, that this judge cannot continue: one of these entries of
        `facts` differs.
    """
    for results in _result_files(output):
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


def judge_files(
    files: Sequence[ImageFile],
    sizes: Sequence[tuple[int, int] | str],
    make_detector: Callable[[], Detector],
    output: Path,
    facts: Mapping[str, Any],
    folder: Path,
    options: VerdictOptions | None = None,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    shard: Shard | None = None,
) -> GenevalSummary | None:
    """Write the verdict on each image to `output`, a summary beside it, and print a table.

    Verdicts that are there already are kept, if the image is not newer than the file and the row of its prompt is the
    same. Batches are the same however often it was interrupted and whoever judges them, and those begun are done again:
    so the file is too.

    A shard's verdicts go to a file of its own beside `output`; the shard that finds no other one's missing joins them.

    Args:
        files: what to judge, with the rows of the prompts.
        sizes: height and width of each, or what is wrong with it; such images are left out and named.
        make_detector: loads the detector; not called if there is nothing left to do.
        output: of JSON lines in the official format.
        facts: entries of the summary: those of `JUDGE` and others.
        folder: that the files are named relative to.
        options: thresholds; the official ones by default.
        batch_size: images judged at once; images of different sizes are never.
        device: where to compute.
        shard: share of the batches to judge; all of them if not given.

    Returns:
        None if other shards' verdicts are missing.

    Raises:
        ValueError: if no image can be read, a row's clause is wrong, a prompt names a class that the detector does not
            know, or there are verdicts by another judge.
    """
    shard = Shard() if shard is None else shard
    require_same_judge(output, facts)
    broken = {place: size for place, size in enumerate(sizes) if isinstance(size, str)}
    readable = [place for place in range(len(files)) if place not in broken]
    if not readable:
        raise ValueError(f"No image of {folder} can be read: {broken[0]}")
    by_name = {file.path.relative_to(folder).as_posix(): file for file in files}
    names = list(by_name)
    places = [[readable[i] for i in batch] for batch in size_batches([sizes[i] for i in readable], batch_size)]
    share = [[names[place] for place in batch] for batch in shard.of(places)]
    _require_right_clauses(files)
    own = shard.file(output)
    rows = kept_rows(_result_files(output), by_name)
    to_do = [batch for batch in share if any(name not in rows for name in batch)]
    begun = {name for batch in to_do for name in batch}
    mine = {name for batch in share for name in batch} | kept_rows([own], by_name).keys()
    detector = None
    if to_do:  # before anything is written
        detector = make_detector()
        _require_known_classes(detector, files)
        if hasattr(detector, "to"):
            detector.to(device)

    own.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), **facts}
    write_json(summary_file(own), content)
    with in_one_step(own) as partial:
        write_results(partial, [rows[name] for name in names if name in rows and name in mine - begun])
    judged: dict[str, dict[str, Any]] = {}
    with own.open("a", encoding="utf-8") as results, ThreadPoolExecutor() as pool:
        for batch in with_progress(to_do, "geneval" if shard.count == 1 else f"geneval {shard}") if to_do else ():
            images = torch.stack(list(pool.map(load_image, [by_name[name].path for name in batch]))).to(device)
            metadata = [by_name[name].metadata for name in batch]
            verdicts = judge(detector, images, metadata, options)
            judged |= {name: result_row(name, *of_one) for name, *of_one in zip(batch, metadata, verdicts, strict=True)}
            results.write("".join(json.dumps(judged[name]) + "\n" for name in batch))
            results.flush()
    unreadable = {names[place]: complaint for place, complaint in broken.items()}
    return _join(output, shard, by_name, judged, content, unreadable)


def _join(
    output: Path,
    shard: Shard,
    by_name: Mapping[str, ImageFile],
    judged: Mapping[str, Mapping[str, Any]],
    content: Mapping[str, Any],
    unreadable: Mapping[str, str],
) -> GenevalSummary | None:
    """Make one file of all verdicts, with its summary, once they are all there. Two shards may do it at once."""
    rows = kept_rows(_result_files(output), by_name) | judged
    missing = sum(name not in rows and name not in unreadable for name in by_name)
    if missing:
        print(f"shard {shard} is done; {missing} images of the others have no verdict yet")
        return None
    ordered = [rows[name] for name in by_name if name in rows]
    summary = summarize(ordered)
    own = shard.file(output)
    content = {**content, "summary": asdict(summary), "unreadable": unreadable}
    write_json(summary_file(output), content, partial=own.with_suffix(".summary.partial"))
    with in_one_step(output, own.with_suffix(".partial")) as partial:
        write_results(partial, ordered)
    for file in shard_files(output):
        file.unlink(missing_ok=True)
        summary_file(file).unlink(missing_ok=True)
    print(f"{geneval_table(summary)}\n\nresults      {output} and {summary_file(output).name}")
    warn_of_unreadable([*unreadable.values()])
    return summary


def warn_of_unreadable(complaints: Sequence[str]) -> None:
    """Print how many images cannot be read, and what is wrong with the first of them; nothing if there are none."""
    if complaints:
        several = len(complaints) > 1
        count = f"{len(complaints)} image{'s' if several else ''}"
        print(f"warning: {count} cannot be read and {'are' if several else 'is'} not in the scores:")
        print("\n".join([*complaints[:8], *(["..."] if len(complaints) > 8 else [])]))


def _result_files(output: Path) -> list[Path]:
    """The files of shards first: when they vanish, the whole one has all they had."""
    return [*shard_files(output), *([output] if output.is_file() else [])]


def kept_rows(
    results: Sequence[Path], files: Mapping[str, ImageFile], read: Callable[..., list[dict[str, Any]]] = read_results
) -> dict[str, dict[str, Any]]:
    """Lines of results files that still hold, by name of the image's file: the row of the prompt, as JSON under
    `metadata`, is the same, and the image is not newer than the file.

    Args:
        results: of JSON lines with `filename` and `metadata`; missing ones are passed over.
        files: by name, with the rows of their prompts.
        read: what reads the lines, like `read_results`.
    """
    kept = {}
    for path in results:
        try:
            written = path.stat().st_mtime_ns
            rows = read(path, is_growing=True)
        except FileNotFoundError:  # not there yet, or another shard has just joined them all
            continue
        kept |= {
            row["filename"]: row
            for row in rows
            if (file := files.get(row["filename"])) is not None
            and row["metadata"] == json.dumps(file.metadata)
            and file.path.stat().st_mtime_ns <= written
        }
    return kept


def _require_right_clauses(files: Sequence[ImageFile]) -> None:
    """Raises:
    ValueError: if a clause of a row is none of GenEval's, which a verdict would stumble on or could not be fair to.
    """
    seen = set()
    for file in files:
        folder = file.path.parents[1]
        if folder in seen:
            continue
        seen.add(folder)
        for key in ("include", "exclude"):
            for number, clause in enumerate(file.metadata.get(key) or ()):
                if complaint := _complaint(clause, number):
                    raise ValueError(f"{folder / GENEVAL_METADATA}: `{key}` has {json.dumps(clause)}; {complaint}.")


def _complaint(clause: Mapping[str, Any], number: int) -> str | None:
    """What is wrong with the clause of that place."""
    count, color, position = clause["count"], clause.get("color"), clause.get("position")
    if type(count) is not int or count < 1:
        return "a `count` is a number from 1 on"
    if "color" in clause and color not in COLORS:
        return f"a `color` is one of {', '.join(COLORS)}"
    if "position" in clause and not (
        isinstance(position, list)
        and len(position) == 2
        and position[0] in RELATIONS
        and type(position[1]) is int
        and 0 <= position[1] < number
    ):
        return f"a `position` is one of {', '.join(RELATIONS)}, and the place of an earlier clause, from 0 on"
    return None


def _require_known_classes(detector: Detector, files: Sequence[ImageFile]) -> None:
    known = getattr(detector, "classes", None)
    if known is None:
        return
    clauses = [c for file in files for key in ("include", "exclude") for c in file.metadata.get(key) or ()]
    unknown = list(dict.fromkeys(clause["class"] for clause in clauses if clause["class"] not in known))
    if unknown:
        asked, there = (f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" for names in (unknown, known))
        raise ValueError(
            f"The prompts ask for {asked}, which the detector does not know; it knows {there}. Choose another one."
        )
