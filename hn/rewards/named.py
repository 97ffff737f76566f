"""Rewards on the command line: short names, class paths, and the rewards of an experiment file."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hn.rewards.base import Reward
from hn.utils.class_path import import_class
from hn.utils.config import read_section

Section = dict[str, Any]
"""`class_path` and `init_args` of one reward, as in a configuration file."""

ENSEMBLE = "hn.rewards.ensemble.RewardEnsemble"
SHORT_NAMES: Mapping[str, Section] = {
    "hps": {"class_path": "hn.rewards.hpsv2.HPSv2Reward"},
    "hpsv2": {"class_path": "hn.rewards.hpsv2.HPSv2Reward"},
    "hpsv2.1": {"class_path": "hn.rewards.hpsv2.HPSv2Reward"},
    "hpsv2.0": {"class_path": "hn.rewards.hpsv2.HPSv2Reward", "init_args": {"version": "v2.0"}},
    "imagereward": {"class_path": "hn.rewards.image_reward.ImageReward"},
    "clip": {"class_path": "hn.rewards.clip.ClipReward"},
    "pickscore": {"class_path": "hn.rewards.pickscore.PickScoreReward"},
    "aesthetic": {"class_path": "hn.rewards.aesthetic.AestheticReward"},
    "redness": {"class_path": "hn.rewards.redness.RednessReward"},
    "brightness": {"class_path": "hn.rewards.brightness.BrightnessReward"},
    "saturation": {"class_path": "hn.rewards.saturation.SaturationReward"},
    "jpeg_size": {"class_path": "hn.rewards.jpeg_size.JpegSizeReward"},
}
"""Rewards with their published checkpoints and options; others need a configuration file."""


def reward_sections(
    words: Sequence[str], dtype: str | None = None, other_metrics: Sequence[str] = ()
) -> dict[str, Section]:
    """What words mean, by the names that their scores get.

    Args:
        words: short names; class paths, whose scores are named after the class; and YAML files with the section
            `model.reward` or the content of one: an ensemble, whose rewards and held-out ones keep their names, or a
            single reward, named after the file.
        dtype: data type for the weights of all that have them; their own if not given.
        other_metrics: names that the command takes besides; the error of an unknown name suggests them too.

    Returns:
        Class path and arguments by name, each reward once.

    Raises:
        FileNotFoundError, ValueError: if a word means nothing, or two rewards have the same name.
    """
    sections: dict[str, Section] = {}
    for word in words:
        for name, section in _meaning(word, [*SHORT_NAMES, *other_metrics]).items():
            section = _with_dtype(section, dtype)
            if sections.get(name, section) != section:
                raise ValueError(f"Two rewards are called {name!r}; rename one of them in a configuration file.")
            if section not in sections.values():
                sections[name] = section
    return sections


def choosing_section(word: str) -> Section:
    """Class path and arguments of the `RewardEnsemble` that chooses among images by what a word means.

    Args:
        word: a short name or class path of one reward; or a YAML file as `reward_sections` takes it, of whose ensemble
            only what has a weight is loaded.

    Raises:
        FileNotFoundError, ValueError: if the word means nothing, or no reward has a weight.
    """
    arguments = _ensemble_arguments(Path(word)) if Path(word).suffix in (".yaml", ".yml") else {}
    rewards, weights = arguments.get("rewards"), arguments.get("weights")
    if rewards is None:
        ((name, section),) = _meaning(word, [*SHORT_NAMES]).items()
        rewards, weights = {name: section}, {name: 1.0}
    names = [name for name in rewards if weights is None or weights.get(name) != 0]
    if not names:
        raise ValueError(f"{word} has no reward with a weight other than 0, so nothing would choose.")
    for section in rewards.values():
        import_class(section["class_path"], Reward)
    chosen: dict[str, Any] = {"rewards": {name: rewards[name] for name in names}, "gradient_free": True}
    by_name = {"weights": weights, "normalise": arguments.get("normalise"), "quantise": arguments.get("quantise")}
    for option, given in by_name.items():
        if given is not None:
            is_mapping = isinstance(given, Mapping)
            chosen[option] = {name: given[name] for name in names if name in given} if is_mapping else given
    return {"class_path": ENSEMBLE, "init_args": chosen}


def _meaning(word: str, known: Sequence[str]) -> dict[str, Section]:
    if word in SHORT_NAMES:
        return {word: dict(SHORT_NAMES[word])}
    if Path(word).suffix in (".yaml", ".yml"):
        return _of_file(Path(word))
    nearest = difflib.get_close_matches(word, known, n=3, cutoff=0.75 if "." in word else 0.5)
    if "." in word and not nearest:
        return {word.rpartition(".")[2]: {"class_path": word}}
    hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    raise ValueError(
        f"There is no metric {word!r}; {hint}Known are {', '.join(known)}, besides class paths and YAML files."
    )


def _ensemble_arguments(file: Path) -> Mapping[str, Any]:
    """Arguments of the ensemble that a file describes; without `rewards` if it describes something else."""
    content = read_section(file, "model.reward")
    arguments = content.get("init_args", content if "class_path" not in content else {}) or {}
    return arguments if "rewards" in arguments else {}


def _of_file(file: Path) -> dict[str, Section]:
    arguments = _ensemble_arguments(file)
    if arguments:
        found = {**(arguments["rewards"] or {}), **(arguments.get("held_out") or {})}
    else:
        content = read_section(file, "model.reward")
        found = {file.stem: content} if "class_path" in content else {}
    if not found or not all(isinstance(section, dict) and "class_path" in section for section in found.values()):
        raise ValueError(
            f"{file} describes no metric: it has none of `model.reward`, `rewards` and `metric`, and no `class_path` "
            "with `init_args`."
        )
    return found


def _with_dtype(section: Section, dtype: str | None) -> Section:
    """The section with its arguments, and `dtype` among them if its class has such a one.

    Raises:
        ValueError: if there is no such class, or it is not a reward.
    """
    reward = import_class(section["class_path"], Reward)
    arguments = dict(section.get("init_args") or {})
    if dtype is not None and "dtype" in inspect.signature(reward).parameters:
        arguments["dtype"] = dtype
    return {"class_path": section["class_path"], "init_args": arguments}
