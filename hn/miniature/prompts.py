"""The miniature's prompt files in `data/prompts/miniature/`: GenEval's schema, disjoint in their combinations."""

from __future__ import annotations

import json
from pathlib import Path

from hn.miniature.captions import evaluation_prompts, training_prompts
from hn.utils.files import write_text

PER_TAG = {"train": 120, "val": 8, "test": 24}


def write_prompt_files(folder: str | Path) -> None:
    """Write `train.jsonl`, `val.jsonl` and `test.jsonl`; the same files every time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, per_tag in PER_TAG.items():
        rows = training_prompts(per_tag) if split == "train" else evaluation_prompts(split, per_tag)
        write_text(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    write_prompt_files("data/prompts/miniature")
