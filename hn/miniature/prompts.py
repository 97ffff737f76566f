"""The miniature's prompt files in `data/prompts/miniature/`: GenEval's schema, disjoint in their combinations."""

from __future__ import annotations

import json
from pathlib import Path

from hn.miniature.captions import evaluation_prompts, training_prompts
from hn.utils.files import write_text

PER_TAG = {"train": 120, "val": 8, "test": 24}
LARGE = 400
"""Prompts a tag in the larger training file, for training that sees a prompt's noises few at a time."""


def write_prompt_files(folder: str | Path) -> None:
    """Write `train.jsonl`, `train_large.jsonl`, `val.jsonl` and `test.jsonl`; the same files every time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {split: evaluation_prompts(split, PER_TAG[split]) for split in ("val", "test")}
    rows |= {"train": training_prompts(PER_TAG["train"]), "train_large": training_prompts(LARGE)}
    for name, of_file in rows.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in of_file))


if __name__ == "__main__":
    write_prompt_files("data/prompts/miniature")
