"""Configuration files that build on others: `extends: [shared/base.yaml]`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hn.utils.bundled import bundled, find_path, find_paths

EXTENDS = "extends"
REWARD_GROUPS = {"rewards": ("weights", "normalise", "quantise"), "held_out": ("quantise",)}
"""The mappings of named rewards in an ensemble, and its options that have an entry for each name."""
GENERATOR = "hn.generators.pipeline.DiffusersGenerator"
ONNX_GENERATOR = "hn.generators.onnx.OnnxGenerator"
ENDINGS = (".yaml", ".yml")
_LARGEST = 100_000  # values in a file
_LONGEST_PATH = 1000  # characters
_WRITTEN = ("root", "output", "class_path")
"""Keys whose values are no paths to read."""


def find_config(name: str, kind: str, folder: str) -> str:
    """The path of a configuration file that is given by its path or by its name.

    Names and relative paths are looked up in the working directory, and then among the files that come with hn.

    Args:
        name: a path; or a name like "miniature", for miniature.yaml in `folder`.
        kind: what the file describes, for the error: "experiment".
        folder: like "experiments".

    Raises:
        FileNotFoundError: if there is no configuration of a name; lists those that there are. A path is returned as it
            is if there is no such file.
    """
    if not name or Path(name).name != name or Path(name).suffix in ENDINGS or Path(name).is_file():
        return find_path(name)
    file = find_path(f"{folder}/{name}.yaml")
    if Path(file).is_file():
        return file
    known = config_names(folder)
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise FileNotFoundError(f"There is no {kind} {name!r}.{hint} There are: {', '.join(known)}; or give a YAML file.")


def config_names(folder: str) -> list[str]:
    """Names of the configurations in a folder like "experiments": those of the working directory and of hn."""
    return sorted({path.stem for place in (Path(folder), bundled(folder)) for path in place.glob("*.yaml")})


def read_config(file: str | Path) -> dict[str, Any]:
    """A YAML file merged over the files that it `extends`, which are named relative to its own folder.

    A relative path to a file that comes with hn, like `data/miniature/pipeline` or `experiments/miniature.yaml`, may
    stand anywhere, also under `extends`: if the working directory has no such file, the path becomes that of hn's.
    Later files win over earlier ones and the file itself over all of them; a file that is reached twice counts once, at
    its first place. Mappings are merged key by key, anything else is replaced. Where a `class_path` changes, the other
    class's `init_args` are dropped with it. `null` removes an inherited reward, and its weight with it. Interpolations
    like `${trainer.max_steps}` are left as they are.

    Raises:
        FileNotFoundError: if a file is missing; lists what is there.
        ValueError: if a file is no YAML mapping, or extends itself, or removes a reward that it does not inherit.
    """
    contents: dict[Path, dict[str, Any]] = {}
    _collect(Path(find_path(str(file))), (), contents)
    merged: dict[str, Any] = {}
    for content in contents.values():
        merged = merge(merged, content)
    _require_inherited(merged)
    return find_paths(merged)


def find_key(files: Sequence[str | Path], key: Sequence[str | int]) -> str:
    """Where a key stands, like "experiments/shared/miniature.yaml, line 4": in the last file that has it.

    Args:
        files: configuration files; they and all that they extend are looked through.
        key: the way to it from the top: keys of mappings, and places in lists.

    Returns:
        File and line; the last file alone if none has the key spelled out, as with YAML's `<<`.
    """
    contents: dict[Path, dict[str, Any]] = {}
    for file in files:
        _collect(Path(find_path(str(file))), (), contents)
    for path in reversed(contents):
        if (line := _line_of(yaml.compose(path.read_text(encoding="utf-8")), key)) is not None:
            here = Path.cwd()
            return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {line}"
    return str(files[-1])


def _line_of(node: yaml.Node, key: Sequence[str | int]) -> int | None:
    """The line of a key below a node, the first one being 1; None if it is not there."""
    line = None
    for part in key:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[part]
            line = node.start_mark.line
        else:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = [pair for pair in pairs if pair[0].value == str(part)]
            if not found:
                return None
            line = found[-1][0].start_mark.line
            node = found[-1][1]
    return None if line is None else line + 1


def merge(base: Any, change: Any) -> Any:
    """`change` over `base`; neither is altered."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    base, change = _without_removed_rewards(base, change)
    if "class_path" in change and change["class_path"] != base.get("class_path"):
        base.pop("init_args", None)
    return base | {key: merge(base[key], value) if key in base else value for key, value in change.items()}


def _without_removed_rewards(base: dict[str, Any], change: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies of both without the rewards of `base` that are null in `change`, and without their weights in `base`."""
    base, change = dict(base), dict(change)
    for group, options in REWARD_GROUPS.items():
        if not (isinstance(base.get(group), dict) and isinstance(change.get(group), dict)):
            continue
        removed = {name for name, reward in change[group].items() if reward is None and name in base[group]}
        change[group] = _without(change[group], removed)
        base |= {key: _without(base[key], removed) for key in (group, *options) if isinstance(base.get(key), dict)}
    return base, change


def _require_inherited(content: Mapping[str, Any]) -> None:
    """Raises:
    ValueError: if a reward is still null, so that there was none to remove.
    """
    for key, value in content.items():
        if not isinstance(value, dict):
            continue
        if key in REWARD_GROUPS and (unknown := [name for name, reward in value.items() if reward is None]):
            known = ", ".join(name for name in value if name not in unknown) or "none"
            raise ValueError(
                f"`null` removes an inherited reward, but {key} inherits no {unknown[0]!r}; it has: {known}."
            )
        _require_inherited(value)


def _without(mapping: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in names}


def generator_section(generator: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Class path and arguments of what `--generator` means.

    Args:
        generator: Hub id or folder of a diffusers pipeline, folder of an exported one, or a YAML file with the section
            `model.generator`, or with the content of one.
        changes: arguments that replace those of the file.

    Raises:
        FileNotFoundError, ValueError: if the file is missing or wrong, or describes no generator.
    """
    if (Path(generator) / "generator.onnx").is_file():
        return {"class_path": ONNX_GENERATOR, "init_args": {"folder": generator, **changes}}
    if Path(generator).suffix not in ENDINGS:
        return {"class_path": GENERATOR, "init_args": {"pretrained": generator, **changes}}
    section = read_section(generator, "model.generator")
    if "class_path" not in section and "pretrained" not in section:
        raise ValueError(
            f"{generator} describes no generator: it has neither `model.generator` nor `class_path` with `init_args`, "
            "nor `pretrained`."
        )
    if "class_path" not in section:
        section = {"class_path": GENERATOR, "init_args": section}
    return {**section, "init_args": {**section.get("init_args", {}), **changes}}


def read_section(file: str | Path, name: str) -> dict[str, Any]:
    """A section of a configuration file, like "model.generator", or the whole file where it has none; resolved.

    Raises:
        FileNotFoundError, ValueError: if the file is missing or wrong, or a ${...} in the section cannot be resolved.
    """
    config = OmegaConf.create(read_config(file))
    try:
        return OmegaConf.to_container(OmegaConf.select(config, name) or config, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"A ${{...}} in {file} cannot be resolved: {error}") from error


def _collect(file: Path, chain: tuple[Path, ...], contents: dict[Path, dict[str, Any]]) -> None:
    """Add the contents of a file, after those of the files it extends, to `contents`; `chain` is how we came here."""
    key = file.resolve()
    if key in (seen.resolve() for seen in chain):
        raise ValueError(f"A configuration file extends itself: {' -> '.join(map(str, (*chain, file)))}.")
    if key in contents:
        return
    if not file.is_file():
        raise FileNotFoundError(_missing(file, chain))
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        size = _size(content, {})
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from error
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply, or refers to itself.") from None
    if size > _LARGEST:
        raise ValueError(f"{file} has {size} values once its aliases are written out, more than {_LARGEST}.")
    if not isinstance(content, dict):
        found = "nothing" if content is None else repr(content)
        raise ValueError(f"{file} must hold a mapping of options, not {found}.")
    names = content.pop(EXTENDS, None) or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`{EXTENDS}` in {file} must be the name of a file, or a list of names, not {names!r}.")
    for name in names:
        _collect(_extended(file.parent, name), (*chain, file), contents)
    contents[key] = _beside(content, file.parent)


def _size(value: Any, known: dict[int, int]) -> int:
    """The number of values below one, each as often as aliases name it; `known` are those that were counted."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        members = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(member, known) for member in members)
    return known[id(value)]


def _beside(value: Any, folder: Path) -> Any:
    """A file's content, with relative paths that are not below the working directory but below the file's folder as
    paths from there."""
    if isinstance(value, dict):
        return {_beside(key, folder): each if key in _WRITTEN else _beside(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_beside(each, folder) for each in value]
    if not isinstance(value, str) or len(value) > _LONGEST_PATH or not ("/" in value or Path(value).suffix):
        return value
    try:
        is_beside = not os.path.exists(value) and (folder / value).exists()
    except (OSError, ValueError):  # no path
        return value
    return str(folder / value) if is_beside else value


def _extended(folder: Path, name: str) -> Path:
    """The file that one in `folder` extends: relative to that folder or, if it is not there, to where hn is found."""
    file = folder / os.path.expanduser(name)
    known = Path(find_path(name))
    return known if not file.is_file() and known.is_file() and name.startswith("experiments/") else file


def _missing(file: Path, chain: tuple[Path, ...]) -> str:
    by = f", which {chain[-1]} extends" if chain else ""
    there = sorted(path.stem for path in file.parent.glob("*.yaml"))
    hint = f" {file.parent} has: {', '.join(there)}." if there else ""
    return f"There is no configuration file {file}{by}.{hint}"
