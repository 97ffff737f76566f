"""What a comparison says of a method beyond its summary: intervals, categories, memory; and its images one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hn.evaluation.record import MethodRecord

_PREFIXES = {"rewards": "reward/", "held_out_rewards": "held_out/"}


def details(record: MethodRecord, categories: Mapping[int, str], base: MethodRecord | None = None) -> dict[str, Any]:
    """More entries of a method in `results.json`, beside those of `MethodRecord.summary`.

    Args:
        record: of the method.
        categories: of the prompts, by number.
        base: the base's record of the same samples; None for the base itself.

    Returns:
        `<score>_ci95`, bounds of the 95 % interval of the method's own mean, prompts drawn with replacement, of
        `reward`, `held_out_reward`, `geneval`, of every tag of GenEval's and of every reward; `<rewards>_delta_ci95`,
        of every reward's difference to the base; `categories`, see `categories_of`; `peak_memory_bytes`.
    """
    result: dict[str, Any] = {
        "peak_memory_bytes": record.peak_memory_bytes,
        "reward_ci95": record.interval("reward"),
        "held_out_reward_ci95": record.interval("held_out"),
        "geneval_ci95": record.interval("correct", by_tag=True),
        "geneval_tags_ci95": _tag_intervals(record),
    }
    for key, prefix in _PREFIXES.items():
        names = [name for name in record.score_names if name.startswith(prefix)]
        result[f"{key}_ci95"] = {name.removeprefix(prefix): record.interval(name) for name in names}
        if base is not None:
            deltas = {name.removeprefix(prefix): record.interval(name, base) for name in names}
            result[f"{key}_delta_ci95"] = deltas
    return {**result, "categories": categories_of(record, categories)}


def categories_of(record: MethodRecord, categories: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """By category: `images`, `prompts`, and `reward`, `held_out_reward` and `geneval`, each with its interval `_ci95`.

    `geneval` is the share of correct images; what was not measured, or of a category cannot be answered, is None.

    Args:
        record: of a method.
        categories: of the prompts, by number.
    """
    index = record.column("index").numpy()
    of_image = np.array([categories[number] for number in index.tolist()])
    result = {}
    for category in map(str, dict.fromkeys(of_image)):
        mine = of_image == category
        entry: dict[str, Any] = {"images": int(mine.sum()), "prompts": len(np.unique(index[mine]))}
        for key, name in (("reward", "reward"), ("held_out_reward", "held_out"), ("geneval", "correct")):
            values = record.column(name).double().numpy()[mine] if record.has(name) else np.array([])
            values = values[np.isfinite(values)]
            entry[key] = float(values.mean()) if len(values) else None
            entry[f"{key}_ci95"] = record.interval(name, prompts=index[mine])
        result[category] = entry
    return result


def _tag_intervals(record: MethodRecord) -> dict[str, list[float] | None] | None:
    """Intervals of the shares of `MethodRecord.geneval`."""
    shares = record.geneval()
    if shares is None:
        return None
    index, tags = record.column("index").numpy(), np.array(record.tags)
    return {tag: record.interval("correct", prompts=index[tags == tag]) for tag in shares if tag != "overall"}


def image_rows(
    record: MethodRecord, prompts: Mapping[int, str], categories: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
    """A row for each image: `method`, `index`, `copy`, `category`, `prompt`, and its scores by name.

    `correct` is True, False or None; other scores are numbers, `features` are left out.

    Args:
        record: of the method.
        prompts: by number.
        categories: of the prompts, likewise.
    """
    names = [name for name in record.score_names if name not in ("index", "copy") and record.column(name).ndim == 1]
    columns = {name: record.column(name).tolist() for name in names}
    index, copy = record.column("index").tolist(), record.column("copy").tolist()
    for place, number in enumerate(index):
        scores = {name: values[place] for name, values in columns.items()}
        if "correct" in scores:
            scores["correct"] = None if np.isnan(scores["correct"]) else bool(scores["correct"])
        own = {"method": record.name, "index": number, "copy": copy[place], "category": categories[number]}
        yield {**own, "prompt": prompts[number], **scores}
