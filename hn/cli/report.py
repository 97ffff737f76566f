"""`hn report`: draw a comparison's page and figures again, without measuring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hn.cli.parsing import Parser, command_parser, helpful_parsing, user_errors
from hn.utils.text import say

REPORT_USAGE = "hn report FOLDER"
REPORT_DESCRIPTION = (
    """Draw report.html and figures/ of a comparison again, from results.json, images.csv and gallery/ in its folder."""
)


def report_parser() -> Parser:
    """Options of `hn report`."""
    parser = command_parser("report", REPORT_USAGE, REPORT_DESCRIPTION)
    parser.add_argument("folder", help="What hn compare wrote, like runs/miniature/compare_<name>.")
    return parser


def draw_report(arguments: Sequence[str]) -> None:
    """`hn report`: the page and the figures of a comparison that was measured.

    Raises:
        UserError: if the folder holds no results.
    """
    parser = report_parser()
    with helpful_parsing(parser, arguments):
        options = parser.parse_args(list(arguments))
    with user_errors():
        from hn.report.page import write_report  # here, for a help without matplotlib

        say(f"report       {write_report(Path(options.folder))}")
