"""Prompt files, and data sets of prompts."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

PathLike = str | Path


class Prompt(TypedDict):
    """One prompt; `metadata` is its whole row in the file and `index` its place in the data set."""

    prompt: str
    metadata: dict[str, Any]
    index: int


class PromptBatch(TypedDict):
    """B prompts."""

    prompt: list[str]
    metadata: list[dict[str, Any]]
    index: Tensor  # [B] int64


def read_prompts(path: PathLike) -> list[dict[str, Any]]:
    """The rows of a prompt file, each with a non-empty string under "prompt".

    Two formats, told apart by the file's ending:
        `.jsonl`: one JSON object a line with "prompt" and anything else, like GenEval's "tag", "include", "exclude";
        `.txt`: one prompt a line.
    Files are UTF-8, with or without a byte order mark; blank lines are skipped and prompts stripped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the ending is another one, the file is not UTF-8, a line is wrong (named by its number), or there
            are no prompts.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".txt"):
        raise ValueError(f"{path}: prompt files end in .jsonl or .txt, not '{path.suffix}'")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such prompt file")
    try:
        # Not splitlines(): it also splits at characters that may stand inside a prompt, like U+2028 or form feed.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not valid UTF-8; save the file as UTF-8") from None
    parse = _parse_json if path.suffix == ".jsonl" else _parse_text
    rows = [parse(line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"{path}: holds no prompts")
    return rows


def normalised(prompt: str) -> str:
    """What two prompts share that mean the same: letter case, spacing and a final full stop are left out."""
    return " ".join(prompt.casefold().split()).rstrip(". ")


class PromptDataset(Dataset[Prompt]):
    """The prompts of one or more files, in order.

    Args:
        paths: one file or several, read by `read_prompts`.
        limit: keep only so many, the first ones.
        exclude: prompts to leave out (before `limit`), compared as `normalised` says.

    Attributes:
        rows: the rows kept.
        n_excluded: number of rows left out because of `exclude`.

    Raises:
        FileNotFoundError, ValueError: as `read_prompts`; also if `limit` is below 1 or nothing is left.
    """

    def __init__(self, paths: PathLike | Sequence[PathLike], limit: int | None = None, exclude: Iterable[str] = ()):
        self.paths = [paths] if isinstance(paths, str | Path) else list(paths)
        if not self.paths:
            raise ValueError("a prompt set needs at least one file")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or None for all prompts, not {limit}")
        unwanted = {normalised(prompt) for prompt in exclude}
        rows = [row for path in self.paths for row in read_prompts(path)]
        kept = [row for row in rows if normalised(row["prompt"]) not in unwanted]
        if not kept:
            raise ValueError(f"{', '.join(map(str, self.paths))}: every prompt is excluded, none is left")
        self.n_excluded = len(rows) - len(kept)
        self.rows = kept[:limit]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prompt:
        row = self.rows[index]
        return Prompt(prompt=row["prompt"], metadata=row, index=index)

    @property
    def prompts(self) -> list[str]:
        """All prompts, in order."""
        return [row["prompt"] for row in self.rows]


def collate_prompts(prompts: Sequence[Prompt]) -> PromptBatch:
    """Batch prompts without turning their metadata into tensors."""
    return PromptBatch(
        prompt=[prompt["prompt"] for prompt in prompts],
        metadata=[prompt["metadata"] for prompt in prompts],
        index=torch.tensor([prompt["index"] for prompt in prompts], dtype=torch.int64),
    )


def _parse_text(line: str, place: str) -> dict[str, Any]:
    return {"prompt": line}


def _parse_json(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not valid JSON ({error.msg} at column {error.colno})") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f'{place}: expected an object with a non-empty string "prompt", such as {{"prompt": "a dog"}}')
    return {**row, "prompt": prompt.strip()}
