"""GenEval's results on disk and their summary, in the official formats (github.com/djghosh13/geneval)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hn.evaluation.geneval import Verdict
from hn.utils.files import write_text

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
FIELDS = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")


@dataclass(frozen=True, slots=True)
class TagScore:
    """Share of correct images among the `n` images of one tag."""

    tag: str
    mean: float
    n_correct: int
    n: int


@dataclass(frozen=True, slots=True)
class GenevalSummary:
    """The numbers the official summary prints.

    Attributes:
        overall: mean of the tags' scores, so that every tag weighs the same however many images it has.
        frac_correct_images: share of correct images.
        frac_correct_prompts: share of prompts with at least one correct image.
        tasks: one score for each tag, in the order in which the tags first occur.
    """

    overall: float
    total_images: int
    total_prompts: int
    frac_correct_images: float
    frac_correct_prompts: float
    tasks: tuple[TagScore, ...]


def result_row(filename: str, metadata: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """One line of the official results file; `metadata` and `details` are JSON inside JSON there, and so they are here.

    `details` holds the kept boxes of each class as [x0, y0, x1, y1, score].
    """
    details = {name: [[*found.box, found.score] for found in kept] for name, kept in verdict.kept.items()}
    return {
        "filename": filename,
        "tag": metadata["tag"],
        "prompt": metadata["prompt"],
        "correct": verdict.correct,
        "reason": verdict.reason,
        "metadata": json.dumps(metadata),
        "details": json.dumps(details),
    }


def write_results(path: str | Path, rows: Iterable[Mapping[str, Any]], fields: Sequence[str] = FIELDS) -> None:
    """Write these fields of rows, like those of `result_row`, as JSON lines."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({name: row[name] for name in fields}) + "\n" for row in rows)
    write_text(path, "".join(lines), durable=True)


def read_results(path: str | Path, is_growing: bool = False, fields: Sequence[str] = FIELDS) -> list[dict[str, Any]]:
    """Read a results file, our own or the official script's.

    Args:
        path: of the file.
        is_growing: leave out a last line that has no end yet.
        fields: that every line must have.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not JSON or lacks a field.
    """
    rows = []
    content = Path(path).read_bytes()
    if is_growing:
        content = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        missing = [name for name in fields if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"{path}, line {number}: results need the fields {', '.join(missing)}")
        rows.append(row)
    return rows


def summarize(rows: Iterable[Mapping[str, Any]]) -> GenevalSummary:
    """Scores of a results file; images of the same `metadata` count as one prompt.

    Raises:
        ValueError: if there are no rows.
    """
    by_tag: dict[str, list[bool]] = {}
    by_prompt: dict[str, list[bool]] = {}
    for row in rows:
        by_tag.setdefault(row["tag"], []).append(bool(row["correct"]))
        by_prompt.setdefault(row["metadata"], []).append(bool(row["correct"]))
    if not by_tag:
        raise ValueError("no GenEval results to summarise")
    tasks = tuple(TagScore(tag, sum(hits) / len(hits), sum(hits), len(hits)) for tag, hits in by_tag.items())
    total_images = sum(task.n for task in tasks)
    return GenevalSummary(
        overall=sum(task.mean for task in tasks) / len(tasks),
        total_images=total_images,
        total_prompts=len(by_prompt),
        frac_correct_images=sum(task.n_correct for task in tasks) / total_images,
        frac_correct_prompts=sum(any(hits) for hits in by_prompt.values()) / len(by_prompt),
        tasks=tasks,
    )
