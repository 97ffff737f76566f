"""`hn study`: train an experiment once for each value of an option, and set the results side by side."""

from __future__ import annotations

from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence

from hn.cli.parsing import UserError, helpful_messages_only
from hn.utils.config import config_names

STUDY_USAGE = "hn study --config NAME|FILE.yaml [--OPTION VALUE ...]"
STUDY_DESCRIPTION = """Train an experiment once for each value of an option, and set the results side by side.
What is trained already is kept, what was interrupted is continued. Further options are those of hn train, for all."""
STUDIES = "experiments/studies"


def study_parser() -> ArgumentParser:
    """Options of `hn study` itself."""
    parser = ArgumentParser(
        prog="hn study", usage=STUDY_USAGE, description=STUDY_DESCRIPTION, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--config", "-c", help="Name of a study or its YAML file; docs/studies.md says what it holds.")
    return parser


def study(arguments: Sequence[str]) -> None:
    """`hn study`.

    Args:
        arguments: the command line after `hn study`.

    Raises:
        UserError: if the study or one of its variants is wrong, before any of them is trained.
    """
    try:
        known, others = study_parser().parse_known_args(list(arguments))
    except ArgumentError as error:
        raise UserError(str(error)) from None
    if known.config is None:
        raise UserError(f"A study is missing: {STUDY_USAGE}\nThere are: {', '.join(config_names(STUDIES))}.")
    from hn.cli.study.run import run_study  # here, for a help without PyTorch

    with helpful_messages_only():
        run_study(known.config, others)
