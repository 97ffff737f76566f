"""GenEval's verdicts on images on disk: the official results file, a summary beside it, and a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hn.data.images import ImageFile, load_image, size_batches
from hn.evaluation.detectors.base import Detector, judge
from hn.evaluation.geneval import VerdictOptions
from hn.evaluation.geneval_results import GenevalSummary, read_results, result_row, summarize, write_results
from hn.files import in_one_step
from hn.report.geneval import geneval_table
from hn.report.images import write_json
from hn.report.progress import with_progress
from hn.report.results import environment

JUDGE = ("detector", "options")
"""Entries of the summary that verdicts depend on: those of two judges are not mixed in one file."""


def summary_file(output: Path) -> Path:
    """Where the summary of a results file is."""
    return output.with_suffix(".summary.json")


def require_same_judge(output: Path, facts: Mapping[str, Any], entries: Sequence[str] = JUDGE) -> None:
    """Raises:
    ValueError: if there is a results file that this judge cannot continue: one of these entries of `facts` differs.
    """
    if not output.exists():
        return
    try:
        earlier = json.loads(summary_file(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(
            f"{output} is there already and {summary_file(output).name}, which says what judged it, is not; choose "
            "another --output, or remove it."
        ) from None
    changed = [name for name in entries if earlier.get(name) != json.loads(json.dumps(facts[name]))]
    if changed:
        raise ValueError(
            f"{output} has verdicts by another judge ({' and '.join(changed)} differ, see "
            f"{summary_file(output).name}); choose another --output, or remove it."
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
) -> GenevalSummary:
    """Write the verdict on each image to `output`, a summary beside it, and print a table.

    Verdicts that are there already are kept, if the image is not newer than the file and the row of its prompt is the
    same. Batches are the same however often it was interrupted, and those begun are done again: so the file is too.

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

    Raises:
        ValueError: if no image can be read, a prompt names a class that the detector does not know, or the file's
            verdicts are another judge's.
    """
    require_same_judge(output, facts)
    broken = {place: size for place, size in enumerate(sizes) if isinstance(size, str)}
    readable = [place for place in range(len(files)) if place not in broken]
    if not readable:
        raise ValueError(f"No image of {folder} can be read: {broken[0]}")
    names = [file.path.relative_to(folder).as_posix() for file in files]
    rows = kept_rows(output, dict(zip(names, files, strict=True)))
    places = [[readable[i] for i in batch] for batch in size_batches([sizes[i] for i in readable], batch_size)]
    to_do = [batch for batch in places if any(names[place] not in rows for place in batch)]
    rows = {name: row for name, row in rows.items() if name not in {names[place] for batch in to_do for place in batch}}
    detector = None
    if to_do:  # before anything is written
        detector = make_detector()
        _require_known_classes(detector, files)
        if hasattr(detector, "to"):
            detector.to(device)

    output.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), **facts}
    write_json(summary_file(output), content)
    with in_one_step(output) as partial:
        write_results(partial, [rows[name] for name in names if name in rows])
    with output.open("a", encoding="utf-8") as results, ThreadPoolExecutor() as pool:
        for batch in with_progress(to_do, "geneval") if to_do else ():
            images = torch.stack(list(pool.map(load_image, [files[place].path for place in batch]))).to(device)
            verdicts = judge(detector, images, [files[place].metadata for place in batch], options)
            for place, verdict in zip(batch, verdicts, strict=True):
                rows[names[place]] = result_row(names[place], files[place].metadata, verdict)
            results.write("".join(json.dumps(rows[names[place]]) + "\n" for place in batch))
            results.flush()
    ordered = [rows[name] for name in names if name in rows]
    with in_one_step(output) as partial:
        write_results(partial, ordered)
    summary = summarize(ordered)
    unreadable = {names[place]: complaint for place, complaint in broken.items()}
    write_json(summary_file(output), content | {"summary": asdict(summary), "unreadable": unreadable})
    print(f"{geneval_table(summary)}\n\nresults      {output} and {summary_file(output).name}")
    warn_of_unreadable(list(broken.values()))
    return summary


def warn_of_unreadable(complaints: Sequence[str]) -> None:
    """Print how many images cannot be read, and what is wrong with the first of them; nothing if there are none."""
    if complaints:
        several = len(complaints) > 1
        count = f"{len(complaints)} image{'s' if several else ''}"
        print(f"warning: {count} cannot be read and {'are' if several else 'is'} not in the scores:")
        print("\n".join([*complaints[:8], *(["..."] if len(complaints) > 8 else [])]))


def kept_rows(
    output: Path, files: Mapping[str, ImageFile], read: Callable[[Path], list[dict[str, Any]]] = read_results
) -> dict[str, dict[str, Any]]:
    """Lines of an earlier run that still hold, by file name: the row of the prompt, as JSON under `metadata`, is the
    same, and the image is not newer than the file.

    Args:
        output: of JSON lines with `filename` and `metadata`; a line that was not finished is taken off.
        files: by file name, with the rows of their prompts.
        read: what reads the lines.
    """
    if not output.is_file():
        return {}
    text = output.read_bytes()
    if text and not text.endswith(b"\n"):  # a line that was being written
        output.write_bytes(text[: text.rfind(b"\n") + 1])
    written = output.stat().st_mtime_ns
    return {
        row["filename"]: row
        for row in read(output)
        if (file := files.get(row["filename"])) is not None
        and row["metadata"] == json.dumps(file.metadata)
        and file.path.stat().st_mtime_ns <= written
    }


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
