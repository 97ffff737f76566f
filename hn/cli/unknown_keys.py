"""Unknown keys in an experiment's files: where they stand, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from hn.cli.parsing import argument_names
from hn.utils.config import EXTENDS, find_key, merge, read_config
from hn.utils.private.argparse import option_strings

_CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}

Key = tuple[str | int, ...]
"""The way to a key from the top: keys of mappings, and places in lists."""


def unknown_keys(parser: ArgumentParser, files: Sequence[str], message: str) -> str:
    """Keys of configuration files that neither the parser nor a class named in the files knows, a line each.

    Args:
        parser: what knows options.
        files: configuration files; later ones win.
        message: the parser's error; keys that it does not mention are left out.
    """
    content: dict[str, Any] = {}
    for file in files:
        content = merge(content, read_config(file))
    options = [option.removeprefix("--") for option in option_strings(parser) if not option.endswith((".help", "+"))]
    found = [(key, known) for key, known in _unknown(content, (), options) if str(key[-1]) in message]
    return "".join(_line(files, key, known) for key, known in found)


def _unknown(
    value: Any, key: Key, options: Collection[str], of_class: str | None = None
) -> Iterator[tuple[Key, Collection[str]]]:
    """Each unknown key below `key`, with the keys that are known in its place.

    Args:
        value: what stands there.
        key: where.
        options: all options of the parser.
        of_class: path of the class whose arguments `value` has.
    """
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unknown(inner, (*key, number), options)
    if not isinstance(value, dict):
        return
    known = _known(value, key, options, of_class)
    for name, inner in value.items():
        if known and str(name).partition(".")[0] not in known:
            yield (*key, name), known
        else:
            class_path = value.get("class_path") if name == "init_args" else None
            yield from _unknown(inner, (*key, name), options, class_path)


def _known(value: dict[str, Any], key: Key, options: Collection[str], of_class: str | None) -> Collection[str]:
    """The keys that a mapping may have; empty if any."""
    if of_class is not None:
        return argument_names(of_class)
    if "class_path" in value or "init_args" in value:
        return _CLASS_KEYS
    section = "".join(f"{part}." for part in key)
    below = {option.removeprefix(section).partition(".")[0] for option in options if option.startswith(section)}
    return below if key else below | {EXTENDS}


def _line(files: Sequence[str], key: Key, known: Collection[str]) -> str:
    *section, name = map(str, key)
    inside = f" in {'.'.join(section)}" if section else ""
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else f"; known are {', '.join(sorted(known))}."
    return f"{find_key(files, key)}: unknown key {name!r}{inside}{hint}\n"
