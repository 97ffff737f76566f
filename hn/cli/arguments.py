"""The command line's words before they are parsed."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from hn.cli.parsing import user_errors
from hn.config import read_config


def expand_configs(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments with each `--config FILE` replaced by `--config CONTENT`, and the last file's path.

    The content is that of the file over all that it extends.

    Raises:
        UserError: if a file is missing or wrong.
    """
    expanded: list[str] = []
    file = None
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            file = value if equals else next(words, "")
            with user_errors():
                content = read_config(file)
            expanded += ["--config", yaml.safe_dump(content, sort_keys=False)]
        else:
            expanded.append(word)
    return expanded, file


def without_options(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without the options of these names and their values."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, _ = word.partition("=")
        if option.startswith("-") and option.lstrip("-") in names:
            if not equals:
                next(words, None)
        else:
            kept.append(word)
    return kept
