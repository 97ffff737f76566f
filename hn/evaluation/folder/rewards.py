"""Scores of images on disk: `scores.json`, `scores.csv` and a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hn.evaluation.folder.images import ImageFile, load_image, size_batches
from hn.report.tables import scores_table
from hn.rewards.base import Reward
from hn.rewards.ensemble import RewardEnsemble
from hn.utils.environment import environment
from hn.utils.files import unused_directory, write_csv, write_json
from hn.utils.progress import with_progress

Statistics = dict[str, float | None]
"""`mean` and `std` of one reward's scores."""


def require_prompts(files: Sequence[ImageFile], rewards: Mapping[str, type[Reward]]) -> None:
    """Raises:
    ValueError: if an image has no prompt, and a reward reads it.
    """
    readers = [name for name, reward in rewards.items() if reward.reads_prompts]
    if readers and any(file.prompt is None for file in files):
        raise ValueError(
            f"{', '.join(readers)} {'read' if len(readers) > 1 else 'reads'} prompts, and {files[0].path.parent} has "
            "none: give a file of them with --prompts."
        )


def score_files(
    files: Sequence[ImageFile],
    sizes: Sequence[tuple[int, int]],
    make_rewards: Callable[[], Mapping[str, Reward]],
    directory: Path,
    facts: Mapping[str, Any],
    folder: Path,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> None:
    """Write `scores.json` and `scores.csv` of images and print a table. A file is there in whole or not at all.

    Args:
        files: what to score.
        sizes: height and width of each.
        make_rewards: loads the rewards, by name.
        directory: where to; made, under another name if it holds something.
        facts: more entries of `scores.json`.
        folder: that the files are named relative to.
        batch_size: images scored at once; images of different sizes are never.
        device: where to compute.
    """
    directory = unused_directory(directory)  # first: this is no time to find out that it cannot be written to
    try:
        scores = score_images(files, sizes, make_rewards(), batch_size, device)
        rows = [
            {"file": file.path.relative_to(folder).as_posix(), "prompt": file.prompt}
            | ({} if file.method is None else {"method": file.method})
            | {"scores": {name: _finite(values[i]) for name, values in scores.items()}}
            for i, file in enumerate(files)
        ]
        summary = {"all": summarise(scores)} | {
            method: summarise({name: _of_method(values, files, method) for name, values in scores.items()})
            for method in dict.fromkeys(file.method for file in files if file.method is not None)
        }
        write_json(
            directory / "scores.json",
            {"environment": environment(), **facts, "images": len(files), "summary": summary, "scores": rows},
        )
        columns = dict.fromkeys(name for row in rows for name in row if name != "scores")
        csv_rows = [{name: row.get(name) for name in columns} | row["scores"] for row in rows]
        write_csv(directory / "scores.csv", csv_rows)
    except BaseException:
        if not any(directory.iterdir()):
            directory.rmdir()
        raise
    prompts = len({file.prompt for file in files} - {None})
    of_prompts = f" of {prompts} prompt{'s' if prompts > 1 else ''}" if prompts else ""
    title = f"{len(files)} image{'s' if len(files) > 1 else ''}{of_prompts}"
    print(f"{scores_table(summary, title)}\n\nscores       {directory / 'scores.json'} and scores.csv")
    for name, values in scores.items():
        if count := sum(not math.isfinite(value) for value in values):
            print(f"warning: {count} of {name}'s scores are not finite (null); choose another --dtype, like bfloat16.")


@torch.inference_mode()
def score_images(
    files: Sequence[ImageFile],
    sizes: Sequence[tuple[int, int]],
    rewards: Mapping[str, Reward],
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> dict[str, list[float]]:
    """Every reward's score of every image, by the rewards' names; images without a prompt have an empty one.

    Args:
        files: N images.
        sizes: height and width of each.
        rewards: moved to the device.
        batch_size: images scored at once; images of different sizes are never.
        device: where to compute.
    """
    # An ensemble resizes a batch once for all members that see it alike. Its names cannot have dots, ours can.
    ensemble = RewardEnsemble(
        {str(number): reward for number, reward in enumerate(rewards.values())},
        weights={str(number): 0.0 for number in range(len(rewards))},
    ).to(device)
    scores = {name: [math.nan] * len(files) for name in rewards}
    with ThreadPoolExecutor() as pool:
        for places in with_progress(size_batches(sizes, batch_size), "scores"):
            images = torch.stack(list(pool.map(load_image, [files[place].path for place in places]))).to(device)
            output = ensemble(images, [files[place].prompt or "" for place in places])
            for number, name in enumerate(rewards):
                for place, value in zip(places, output.components[str(number)].tolist(), strict=True):
                    scores[name][place] = value
    return scores


def summarise(scores: Mapping[str, Sequence[float]]) -> dict[str, Statistics]:
    """Mean and standard deviation (divided by N - 1) of every reward's N scores, in float64.

    Either is None where there is none: a score is not finite, or there is one image only.
    """
    with np.errstate(invalid="ignore"):
        return {
            name: {
                "mean": _finite(float(np.mean(values))),
                "std": _finite(float(np.std(values, ddof=1))) if len(values) > 1 else None,
            }
            for name, values in scores.items()
        }


def _of_method(values: Sequence[float], files: Sequence[ImageFile], method: str) -> list[float]:
    return [value for value, file in zip(values, files, strict=True) if file.method == method]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
