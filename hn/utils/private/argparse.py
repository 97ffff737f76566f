"""Private names of argparse, on which jsonargparse builds."""

from argparse import ArgumentParser


def option_strings(parser: ArgumentParser) -> list[str]:
    """All options that a parser knows, like "--trainer.max_steps", with the abbreviations that it was given."""
    return [option for action in parser._actions for option in action.option_strings]
