"""The columns of the page's table of results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table: one number per method.

    Attributes:
        key: name in the address of the page, for sorting.
        group: heading above several columns.
        title: heading.
        digits: decimals shown.
        value: gets the number from a method's entry in `results.json`.
        interval: gets the bounds of its 95 % interval.
        better: "high" or "low"; empty if neither is better.
        about: description in one sentence.
    """

    key: str
    group: str
    title: str
    digits: int
    value: Callable[[Entry], float | None]
    interval: Callable[[Entry], list[float] | None] = lambda method: None
    better: str = ""
    about: str = ""

    def best(self, methods: Iterable[Entry]) -> float | None:
        """The best value; None without values, or if neither high nor low is better."""
        values = [self.value(method) for method in methods]
        values = [value for value in values if value is not None]
        return None if not values or not self.better else (max if self.better == "high" else min)(values)


TRAINED, HELD_OUT, WATCHED = "Trained rewards", "Held-out rewards", "Watched"
UNKNOWN = "Rewards"
"""Group of rewards of which no file says whether they were trained on."""
_TAGS = {
    "single_object": "single",
    "two_object": "two",
    "counting": "count",
    "colors": "colour",
    "position": "position",
    "color_attr": "binding",
}


def columns_of(methods: Mapping[str, Entry], reward_weights: Mapping[str, float]) -> list[Column]:
    """Columns for all numbers of the methods.

    Args:
        methods: entries of `results.json`.
        reward_weights: of the ensemble's rewards, 0 for those that are only reported; empty if not known.
    """
    tags = dict.fromkeys(tag for method in methods.values() for tag in method.get("geneval") or {})
    columns = [
        *_reward_columns(methods, reward_weights),
        Column(
            "geneval", "GenEval", "overall", 3, _member("geneval", "overall"), _member("geneval_ci95"), "high",
            "Share of images that show what the prompt asks for: the mean of the categories' shares.",
        ),
        *(
            Column(
                f"geneval.{tag}", "GenEval", tag_title(tag), 2, _member("geneval", tag),
                _tag_interval(tag), "high", f"Share of correct images of {tag}.",
            )
            for tag in tags
            if tag != "overall"
        ),
        Column(
            "cmmd", "Images", "CMMD", 2, _member("cmmd"),
            about="Distance (CLIP maximum mean discrepancy) to the base's own images of other noise; about 0 for "
            "samples of one distribution.",
        ),
        *_measured(methods, "diversity", "How far the images of one prompt are from each other."),
        *_measured(methods, "distances", "Distance to the base's images of other noise, or diversity, by features."),
        Column(
            "seconds", "Cost", "s / image", _digits_of_seconds(methods), _member("seconds_per_image"),
            about="Seconds for one image, prompts encoded beforehand, without scoring.",
        ),
        Column("nfe", "Cost", "passes", 0, _member("nfe"), about="Forward passes of the backbone for one image (NFE)."),
        Column(
            "kl", "Cost", "KL, nats", 1, _member("kl_nats"),
            about="Spent in noise space: half of |f| squared, in nats; for the best of N, log N - (N - 1) / N.",
        ),
        Column(
            "memory", "Cost", "GiB", 2, _gibibytes,
            about="Most memory while it made images: the GPU's, or without one the whole process's.",
        ),
    ]  # fmt: skip
    return [column for column in columns if any(column.value(method) is not None for method in methods.values())]


def tag_title(tag: str) -> str:
    """Short name of a GenEval category; other tags stay as they are."""
    return _TAGS.get(tag, tag.replace("_", " "))


def _reward_columns(methods: Mapping[str, Entry], weights: Mapping[str, float]) -> list[Column]:
    trained = [name for name in _names(methods, "rewards") if weights.get(name, 1.0) != 0]
    watched = [name for name in _names(methods, "rewards") if weights.get(name, 1.0) == 0]
    held_out = _names(methods, "held_out_rewards")
    group = TRAINED if weights else UNKNOWN
    title = "total" if len(trained) > 1 or not trained else trained[0]
    held_out_title = held_out[0] if len(held_out) == 1 else "mean"
    return [
        Column(
            "reward", group, title, 3, _member("reward"), _member("reward_ci95"), "high",
            "The weighted sum that was trained on and that the searches maximise.",
        ),
        *(_member_column("rewards", name, group, _weighted(name, weights)) for name in trained if len(trained) > 1),
        Column(
            "held_out", HELD_OUT, held_out_title, 3, _member("held_out_reward"), _member("held_out_reward_ci95"),
            "high", "Rewards that nothing was trained on or searched with.",
        ),
        *(_member_column("held_out_rewards", name, HELD_OUT, name) for name in held_out if len(held_out) > 1),
        *(_member_column("rewards", name, WATCHED, name) for name in watched),
    ]  # fmt: skip


def _member_column(section: str, name: str, group: str, title: str) -> Column:
    about = "A reward of weight 0: measured, not trained on." if group == WATCHED else f"The reward {name} by itself."
    better = "" if group in (WATCHED, UNKNOWN) else "high"
    interval = _member(f"{section}_ci95", name)
    return Column(f"{section}.{name}", group, title, 3, _member(section, name), interval, better, about)


def _measured(methods: Mapping[str, Entry], section: str, about: str) -> list[Column]:
    """A column for each number in an entry, which is a number or nested mappings of numbers."""
    paths = dict.fromkeys(path for method in methods.values() for path in _number_paths(method.get(section)))
    return [
        Column(
            ".".join((section, *path)), "Images", " ".join(path).replace("_", " ") or section, 3,
            _member(section, *path), about=about,
        )
        for path in paths
    ]  # fmt: skip


def _number_paths(value: Any) -> list[tuple[str, ...]]:
    """Paths to all numbers in nested mappings; the empty path for a number itself."""
    if isinstance(value, Mapping):
        return [(name, *rest) for name, member in value.items() for rest in _number_paths(member)]
    return [()] if isinstance(value, int | float) else []


def _weighted(name: str, weights: Mapping[str, float]) -> str:
    return f"{weights[name]:g} {name}" if name in weights else name


def _names(methods: Mapping[str, Entry], section: str) -> list[str]:
    found = [method.get(section) for method in methods.values()]
    return list(dict.fromkeys(name for entry in found if isinstance(entry, Mapping) for name in entry))


def _member(*names: str) -> Callable[[Entry], Any]:
    """The value at a path in nested mappings; None if a name is missing."""

    def found(method: Any) -> Any:
        for name in names:
            method = method.get(name) if isinstance(method, Mapping) else None
        return method

    return found


def _tag_interval(tag: str) -> Callable[[Entry], list[float] | None]:
    """Of a tag's share of correct images; results that do not have it by itself are grouped by tags."""
    alone, of_category = _member("geneval_tags_ci95", tag), _member("categories", tag, "geneval_ci95")
    return lambda method: alone(method) if "geneval_tags_ci95" in method else of_category(method)


def _gibibytes(method: Entry) -> float | None:
    peak = method.get("peak_memory_bytes")
    return None if peak is None else peak / 2**30


def _digits_of_seconds(methods: Mapping[str, Entry]) -> int:
    """Enough decimals for two significant digits of the fastest method."""
    seconds = [m["seconds_per_image"] for m in methods.values() if m.get("seconds_per_image")]
    return min(6, max(1, 1 - math.floor(math.log10(min(seconds))))) if seconds else 3
