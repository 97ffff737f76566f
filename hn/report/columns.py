"""The columns of the page's table of results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One number of every method.

    Attributes:
        key: in the page's address.
        group: heading over several columns.
        title: heading.
        digits: after the point.
        value: of a method's entry in `results.json`.
        interval: bounds of its 95 % interval.
        better: "high" or "low"; empty for what is neither.
        about: what it is, in a sentence.
    """

    key: str
    group: str
    title: str
    digits: int
    value: Callable[[Entry], float | None]
    interval: Callable[[Entry], list[float] | None] = lambda entry: None
    better: str = ""
    about: str = ""

    def best(self, methods: Iterable[Entry]) -> float | None:
        """The best value; None without one, or where nothing is better."""
        values = [self.value(method) for method in methods]
        values = [value for value in values if value is not None]
        return None if not values or not self.better else (max if self.better == "high" else min)(values)


TRAINED, HELD_OUT, WATCHED = "Trained rewards", "Held-out rewards", "Watched"
_TAGS = {
    "single_object": "single",
    "two_object": "two",
    "counting": "count",
    "colors": "colour",
    "position": "position",
    "color_attr": "binding",
}


def columns_of(methods: Mapping[str, Entry], reward_weights: Mapping[str, float]) -> list[Column]:
    """Columns for all that the methods have.

    Args:
        methods: entries of `results.json`.
        reward_weights: of the ensemble's members; 0 for those that are only watched. Empty if not known.
    """
    columns = _reward_columns(methods, reward_weights)
    columns += [
        _scalar("geneval", "GenEval", "overall", 3, lambda m: _in(m, "geneval", "overall"), "geneval_ci95", "high",
                "Share of images that show what the prompt asks for: the mean of the categories' shares."),
    ]  # fmt: skip
    columns += [
        Column(f"geneval.{tag}", "GenEval", tag_title(tag), 2, _member("geneval", tag),
               lambda m, tag=tag: _in(m, "categories", tag, "geneval_ci95"), "high", f"Correct images of {tag}.")
        for tag in dict.fromkeys(t for m in methods.values() for t in m.get("geneval") or {}) if tag != "overall"
    ]  # fmt: skip
    columns += [
        _scalar("fidelity", "Images", "fidelity", 2, _plain("fidelity"), None, "low",
                "CMMD to the base's own images of other noise, around 0 for samples of one distribution."),
        *_measured(methods, "diversity", "high", "Spread of the images of one prompt."),
        *_measured(methods, "distances", "low", "Distance to the base's images."),
        _scalar("seconds", "Cost", "s / image", _digits_of_seconds(methods), _plain("seconds_per_image"), None, "",
                "Seconds for one image, prompts encoded beforehand, without scoring."),
        _scalar("nfe", "Cost", "passes", 0, _plain("nfe"), None, "",
                "Forward passes of the backbone for one image (NFE)."),
        _scalar("kl", "Cost", "KL, nats", 1, _plain("kl_nats"), None, "",
                "What was spent in noise space: ½|f|² in nats, log N - (N - 1)/N for the best of N."),
        _scalar("memory", "Cost", "GiB", 1, lambda m: _per(m.get("peak_memory_bytes"), 2**30), None, "",
                "Most memory that was allocated on the GPU while images were made."),
    ]  # fmt: skip
    return [column for column in columns if any(column.value(method) is not None for method in methods.values())]


def tag_title(tag: str) -> str:
    """Short name of a GenEval category; other tags stay as they are."""
    return _TAGS.get(tag, tag.replace("_", " "))


def _reward_columns(methods: Mapping[str, Entry], weights: Mapping[str, float]) -> list[Column]:
    trained = [name for name in _names(methods, "rewards") if weights.get(name, 1.0) != 0]
    watched = [name for name in _names(methods, "rewards") if weights.get(name, 1.0) == 0]
    held_out = _names(methods, "held_out_rewards")
    title = "total" if len(trained) > 1 or not trained else trained[0]
    columns = [_scalar("reward", TRAINED, title, 3, _plain("reward"), "reward_ci95", "high",
                       "The weighted sum that was trained on and that the searches maximise.")]  # fmt: skip
    columns += [
        _member_column("rewards", name, TRAINED, _weighted(name, weights)) for name in trained if len(trained) > 1
    ]
    columns += [_scalar("held_out", HELD_OUT, "mean" if len(held_out) > 1 else "".join(held_out) or "mean", 3,
                        _plain("held_out_reward"), "held_out_reward_ci95", "high",
                        "Rewards that nothing was trained on or searched with.")]  # fmt: skip
    columns += [_member_column("held_out_rewards", name, HELD_OUT, name) for name in held_out if len(held_out) > 1]
    columns += [_member_column("rewards", name, WATCHED, name) for name in watched]
    return columns


def _member_column(section: str, name: str, group: str, title: str) -> Column:
    about = "A reward of weight 0: measured, not trained on." if group == WATCHED else f"The reward {name} by itself."
    better = "" if group == WATCHED else "high"
    interval = _member(f"{section}_ci95", name)
    return Column(f"{section}.{name}", group, title, 3, _member(section, name), interval, better, about)


def _measured(methods: Mapping[str, Entry], section: str, better: str, about: str) -> list[Column]:
    """A column for each number of an entry that is a number or a mapping of numbers."""
    if any(isinstance(method.get(section), int | float) for method in methods.values()):
        return [Column(section, "Images", section, 3, _plain(section), better=better, about=about)]
    names = [
        name
        for name in _names(methods, section)
        if any(isinstance(_in(method, section, name), int | float) for method in methods.values())
    ]
    return [
        Column(f"{section}.{name}", "Images", name.replace("_", " "), 3, _member(section, name), better=better,
               about=about)
        for name in names
    ]  # fmt: skip


def _scalar(key, group, title, digits, value, interval, better, about) -> Column:  # noqa: ANN001
    return Column(key, group, title, digits, value, _plain(interval) if interval else (lambda m: None), better, about)


def _weighted(name: str, weights: Mapping[str, float]) -> str:
    return f"{name} ×{weights[name]:g}" if name in weights else name


def _names(methods: Mapping[str, Entry], section: str) -> list[str]:
    found = [method.get(section) for method in methods.values()]
    return list(dict.fromkeys(name for entry in found if isinstance(entry, Mapping) for name in entry))


def _plain(key: str) -> Callable[[Entry], Any]:
    return lambda method: method.get(key)


def _member(section: str, name: str) -> Callable[[Entry], Any]:
    return lambda method: _in(method, section, name)


def _in(entry: Any, *names: str) -> Any:
    for name in names:
        entry = entry.get(name) if isinstance(entry, Mapping) else None
    return entry


def _per(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _digits_of_seconds(methods: Mapping[str, Entry]) -> int:
    """So many that the fastest method has two that count."""
    seconds = [m["seconds_per_image"] for m in methods.values() if m.get("seconds_per_image")]
    return min(6, max(1, 1 - math.floor(math.log10(min(seconds))))) if seconds else 3
