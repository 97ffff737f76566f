"""A study: one experiment trained several times, with options varied, and what is shown of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hn.utils.config import read_config
from hn.utils.text import some_of

TITLES = {
    "reward": "Trained reward",
    "held_out_reward": "Held-out reward",
    "rewards": "Reward",
    "held_out_rewards": "Held-out reward",
    "geneval": "GenEval",
    "kl_nats": "KL, nats",
    "penalty_per_dimension": "½f² per dimension",
    "cmmd": "CMMD",
    "diversity": "Diversity",
    "distances": "Distance",
    "noise_diagnostics": "Noise",
    "seconds_per_image": "Seconds per image",
    "nfe": "Passes (NFE)",
}
"""Metrics of `results.json`, for people."""
EXPERIMENT = "experiment"
"""The axis of several configuration files, in an option's place."""
_OF_MEMBERS = ("rewards", "held_out_rewards", "distances", "noise_diagnostics")  # no numbers themselves
_KEYS = ("experiment", "vary", "test", "options", "show")
_SHOWN = ("reward", "held_out_reward", "geneval", "kl_nats", "cmmd", "diversity")


@dataclass(frozen=True)
class Axis:
    """An option and its values.

    Attributes:
        option: as on the command line, without the dashes.
        values: by their names, which are those of folders too.
    """

    option: str
    values: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The last part of the option's name."""
        return self.option.rpartition(".")[2]

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers, and have no other names."""
        return all(
            isinstance(value, int | float) and not isinstance(value, bool) and name == text_of(value)
            for name, value in self.values.items()
        )


@dataclass(frozen=True)
class Variant:
    """One place on some axes.

    Attributes:
        name: of its folder: "rank=8", or the value's own name.
        labels: names of the values, one for each axis.
        options: the values by option.
    """

    name: str
    labels: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """What a file of `experiments/studies` says.

    Attributes:
        name: of the file.
        experiments: configuration files; several are an axis of `vary`.
        vary: options that the trained variants differ in.
        test: options that every trained variant is tested with anew, each value in turn.
        options: of all variants.
        show: metrics of the table and the figure: names of `results.json`, members after a dot (`geneval.counting`).
    """

    name: str
    experiments: Sequence[str]
    vary: Sequence[Axis]
    test: Sequence[Axis]
    options: Mapping[str, Any]
    show: Sequence[str]

    @property
    def axes(self) -> list[Axis]:
        """All of them; the last one is the figure's x axis."""
        return [*self.vary, *self.test]

    @property
    def variants(self) -> list[Variant]:
        """What is trained."""
        return variants_of(self.vary)

    @property
    def tests(self) -> list[Variant]:
        """What every variant is tested with; empty where the test after training is the only one."""
        return variants_of(self.test) if self.test else []


def read_study(file: str | Path) -> Study:
    """The study of a YAML file; like an experiment it may `extends` others.

    Raises:
        FileNotFoundError: if it is missing; lists what is there.
        ValueError: if it is no study.
    """
    content = read_config(file)
    unknown = content.keys() - {*_KEYS}
    if unknown:
        raise ValueError(f"{file} is no study: it has {some_of(unknown)}, where a study has {', '.join(_KEYS)}.")
    vary, test = (_axes(file, section, content.get(section)) for section in ("vary", "test"))
    experiment = content.get("experiment")
    if isinstance(experiment, dict):
        vary.insert(0, Axis(EXPERIMENT, _values(file, EXPERIMENT, experiment)))
    files = [experiment] if isinstance(experiment, str) else experiment.values() if vary and experiment else [None]
    if not all(isinstance(each, str) for each in files):
        raise ValueError(
            f"{file}: `experiment` must be the configuration file that is varied, or several by name, not "
            f"{experiment!r}."
        )
    axes = [*vary, *test]
    if len(axes) not in (1, 2):
        raise ValueError(
            f"{file}: a study varies one or two things: options in `vary` and `test`, or several experiments; this one "
            f"varies {', '.join(axis.option for axis in axes) or 'nothing'}."
        )
    if len({axis.option for axis in axes}) < len(axes):
        raise ValueError(f"{file}: {axes[0].option} is varied twice.")
    options = _mapping(file, "options", content.get("options"))
    both = options.keys() & {axis.option for axis in axes}
    if both:
        raise ValueError(f"{file}: {some_of(both)} is varied, and among the `options` of all variants too.")
    show = content.get("show", list(_SHOWN))
    if not isinstance(show, list) or not show:
        raise ValueError(f"{file}: `show` must list metrics, not {show!r}.")
    wrong = [str(name) for name in show if not _is_metric(name)]
    if wrong:
        raise ValueError(
            f"{file}: `show` has {some_of(wrong)}, which cannot be shown; metrics are "
            f"{', '.join(filter(_is_metric, TITLES))}, their members, like geneval.counting, and members of "
            f"{', '.join(_OF_MEMBERS)}."
        )
    return Study(Path(file).stem, tuple(files), vary, test, options, show)


def variants_of(axes: Sequence[Axis]) -> list[Variant]:
    """Every combination of the axes' values, the last axis changing fastest."""
    found = []
    for labels in itertools.product(*(axis.values for axis in axes)):
        pairs = list(zip(axes, labels, strict=True))
        names = [f"{a.title}={label}" if label == text_of(a.values[label]) else label for a, label in pairs]
        found.append(Variant(",".join(names), labels, {a.option: a.values[label] for a, label in pairs}))
    return found


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line."""
    return [f"--{option}={text_of(value)}" for option, value in options.items()]


def text_of(value: Any) -> str:
    """A value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _is_metric(name: Any) -> bool:
    first, dot, _ = name.partition(".") if isinstance(name, str) else ("", "", "")
    return first in TITLES and bool(dot) >= (first in _OF_MEMBERS)


def _axes(file: str | Path, section: str, content: Any) -> list[Axis]:
    return [
        Axis(option, _values(file, f"{section}: {option}", values))
        for option, values in _mapping(file, section, content).items()
    ]


def _values(file: str | Path, where: str, values: Any) -> dict[str, Any]:
    """Values by their names."""
    named = dict(values) if isinstance(values, Mapping) else None
    if isinstance(values, list):
        texts = [text_of(value) for value in values]
        named = dict(zip(texts, values, strict=True))
        if len(named) < len(texts):
            raise ValueError(f"{file}: `{where}` has the same value twice.")
    if not named:
        raise ValueError(
            f"{file}: `{where}` must be a list of values, or a mapping of names to values, not {values!r}."
        )
    for name in named:
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or name.startswith("-"):
            raise ValueError(
                f"{file}: `{where}` has {name!r}, which cannot be a part of a folder's name; name the values: "
                "{name: value, ...}."
            )
    return named


def _mapping(file: str | Path, section: str, content: Any) -> dict[str, Any]:
    """A section's content by option; none without it."""
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(option, str) for option in content):
        raise ValueError(f"{file}: `{section}` must have options and their values, not {content!r}.")
    return content
