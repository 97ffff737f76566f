"""Results of judged images on disk: JSON lines that grow, shards of them, and the summary that says what judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hn.data.images import ImageFile
from hn.evaluation.geneval_results import read_results
from hn.shard import shard_files

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
