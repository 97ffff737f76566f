"""`hn prompts list|show|pull|check`: prompt sets."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from hn.cli.parsing import Parser, user_errors
from hn.data import verbs


def run_prompts(arguments: Sequence[str]) -> None:
    """Run one command on prompt sets.

    Args:
        arguments: the command line after `hn prompts`.

    Raises:
        UserError: if the command is wrong, or a set is.
    """
    functions = {"list": verbs.list_sets, "show": verbs.show, "pull": verbs.pull, "check": verbs.check}
    parser = Parser(prog="hn prompts", description="Prompt sets by name: what there is, and having it on this machine.")
    subcommands = parser.add_subcommands()
    for verb, function in functions.items():
        options = Parser(description=inspect.getdoc(function).split("\n\nArgs:")[0])
        if verb == "show":
            options.add_argument("name", help="A set, files of a set, or a mix.")
        elif verb != "list":
            options.add_argument("names", nargs="*", default=[], help="Sets, files of sets, or mixes.")
        if verb == "pull":
            options.add_argument("--all", action="store_true", help="Every set that can be fetched.")
            options.add_argument("--from", metavar="FOLDER", help="Take the files from a folder instead.")
        options.add_function_arguments(function, skip={"name", "names", "all", "source"}, as_group=False)
        subcommands.add_subcommand(verb, options, help=inspect.getdoc(function).splitlines()[0])
    config = parser.parse_args(arguments or ["--help"])
    options = vars(config[config.subcommand])
    if "from" in options:
        source = options.pop("from")
        options["source"] = None if source is None else Path(source)
    with user_errors():
        for line in functions[config.subcommand](**options):
            print(line, flush=True)
