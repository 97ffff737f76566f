"""`hypernet_config.json` and `finetune_config.json`: which network it is, its arguments, and what it is for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hn.utils.json_files import read_json
from hn.utils.json_types import require_types

C = TypeVar("C")

VERSION = 1
"""Number of the files' layout. A file without `version` has this first one."""

_ADVICE = "Download it again, or save the network again."

_TYPES: dict[str, Any] = {
    "version": int,
    "hypernet": str,
    "finetune": str,
    "arguments": dict[str, Any],
    "last_layer_rule": str | None,
    "generator": dict[str, Any],
    "generator.class": str | None,
    "generator.name": str,
    "generator.revision": str | None,
    "generator.backbone": str | None,
    "generator.noise_shape": list[int] | None,
    "generator.digest": dict[str, str] | None,
}


def read_network_config(path: Path, kind: str | None = None) -> dict[str, Any]:
    """The content of `hypernet_config.json` or `finetune_config.json`, with all values of the right type.

    Args:
        path: of the file.
        kind: "hypernet" or "finetune", whose class path, arguments and generator have to be there; None where the
            weights are read as a published adapter's, so that the file may say less.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, of a later version, or a value is missing or wrong; names it.
    """
    content = read_json(path, _ADVICE)
    require_types(content, {"version": int}, path, (), _ADVICE)
    version = content.get("version", VERSION)
    if version > VERSION:
        raise ValueError(
            f"{path} has the layout of version {version}, and this version of hn reads those up to {VERSION}: update "
            "hn to load it."
        )
    if version < 1:
        raise ValueError(f"{path}: 'version' has to be 1 or more, but is {version}. {_ADVICE}")
    required = () if kind is None else (kind, "arguments", "generator", "generator.name", "generator.backbone")
    require_types(content, _TYPES, path, required, _ADVICE)
    return content


def make_network(kind: type[C], arguments: Mapping[str, Any], path: Path) -> C:
    """A network with the arguments that a file has for it.

    Raises:
        ValueError: if an argument is unknown, missing, of the wrong type or out of range; names the file.
    """
    where = f"{path}, arguments of {kind.__name__}"
    try:
        hints = get_type_hints(kind.__init__)
    except NameError:  # of names that are imported for type checkers alone
        hints = {}
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{where}: they do not fit this version of the class ({error}). {_ADVICE}") from error
    require_types(arguments, hints, where, (), _ADVICE)
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
