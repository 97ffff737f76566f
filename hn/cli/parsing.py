"""What the commands share: parsing, and errors as one message. Imports neither PyTorch nor Lightning."""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import yaml
from jsonargparse import ArgumentParser

from hn.utils.class_path import import_class
from hn.utils.config import find_config, read_config
from hn.utils.errors import InputError
from hn.utils.private.argparse import option_strings
from hn.utils.text import printable

EXPERIMENT_USAGE = "hn {command} --config NAME|FILE.yaml [--OPTION VALUE ...]"

# Warnings of what is intended here, or of what users of a command cannot change.
UNHELPFUL_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # the generator stays in eval mode on purpose
    r".*does not have many workers",  # prompts are in memory
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and PyTorch
    r".*`lr_scheduler.step\(\)` before `optimizer.step\(\)`",  # said of a resumed run, where it is not so
    r"The number of training batches .* is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",  # a run that continues
    r"`torch.jit.script` is deprecated",  # within PyTorch's forward differentiation
)

_UNKNOWN_ARGUMENT = re.compile(r"given class_path '([^']+)':\s+Option '([^']+)' is not accepted")

UNHELPFUL_INFORMATION = ("litlogger", "TPU available", "`weights_only` was not set", "Seed set to")


class UserError(Exception):
    """Something to mend in the command or the configuration; shown as one message without a traceback."""


class Parser(ArgumentParser):
    """Says what is wrong with the arguments, without hundreds of lines of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser for the arguments of one class, whose caller says more
            super().error(message, ex)
        raise UserError(plain_message(message))


_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\n"
    r"(?P<indent> *)Subtypes: .*\n"
    r" *Errors:\n"
    r"(?P<errors>(?:(?!Does not validate)[\s\S])*?)\n"
    r"(?P=indent)Given value type: .*\n"
    r"(?P=indent)Given value: .*"
)
_NOT_MEANT = re.compile(r"Expected a (<class 'NoneType'>|path but )")
_OF_CLASS = ("Problem with given class_path", "Not of type", "Expected an instantiatable")


def plain_message(message: str) -> str:
    """An error of jsonargparse without the types that an option could have had, but for the one that was meant: for a
    class path the class's own error, and not that None was expected."""
    previous = None
    while message != previous:  # the innermost ones first
        previous, message = message, _UNION.sub(_meant, message, count=1)
    message = re.sub(
        r"\n\s*Subclass types expect one of:(\n\s*- .*)+", " A mapping with `class_path` is expected.", message
    )
    message = re.sub(r"\n\n\s*- Expected a path but .* either not accessible or invalid\n\s*- ", "\n  ", message)
    message = re.sub(r"Not of type \w+: (must be )", r"\1", message)
    message = re.sub(r"(Expected an instantiatable class, but )(\S+)( is abstract)", _with_missing_methods, message)
    return re.sub(
        r"With fail_untyped=True, .* Parameter '(\w+)' from '(\S+)\.__init__' does not specify a type\.",
        r"The argument \1 of \2 has no type: annotate it, like `\1: str`.",
        message,
    )


def _meant(match: re.Match[str]) -> str:
    """Of the errors of a union's types the one that was meant, or all that may be."""
    indent = match["indent"]
    errors = re.split(rf"^{indent}  - ", match["errors"], flags=re.MULTILINE)[1:]
    errors = [error.rstrip() for error in errors]
    meant = [error for error in errors if error.startswith(_OF_CLASS)]
    meant = meant or [error for error in errors if not _NOT_MEANT.match(error)] or errors
    if len(meant) == 1:
        return meant[0].replace(f"\n{indent}  ", f"\n{indent}")
    value = match[0].rpartition("Given value: ")[2]
    return (
        f"{' or '.join(dict.fromkeys(error.partition('. Got value')[0] for error in meant))}. Got value: {value[:200]}"
    )


def _with_missing_methods(match: re.Match[str]) -> str:
    """Adds the methods that an abstract class lacks."""
    try:
        methods = sorted(import_class(match[2], object).__abstractmethods__)
    except (ValueError, ImportError, AttributeError):
        return match[0]
    return f"{match[1]}{match[2]} is abstract: it has no {', '.join(methods)}"


def command_parser(name: str, usage: str, description: str) -> Parser:
    """A parser for a command without an experiment, as yet without options."""
    return Parser(
        prog=f"hn {name}",
        usage=usage,
        description=description,
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )


def add_trust_option(parser: ArgumentParser) -> None:
    """Add `--trust_remote_code`, for commands that load trained networks."""
    parser.add_argument(
        "--trust_remote_code",
        "--trust-remote-code",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        metavar="CLASS_PATH",
        help="Class of a hypernetwork, not of hn, whose code may be imported and run if hypernet_config.json names it.",
    )


@contextmanager
def helpful_parsing(parser: Parser, arguments: Sequence[str]) -> Iterator[None]:
    """Add to an error of the arguments the options that may have been meant, and where all are listed."""
    try:
        yield
    except UserError as error:
        hint = f"The options are listed by: {parser.prog} --help"
        raise UserError(f"{error}\n{nearest_options(parser, arguments, str(error))}{hint}") from None


def with_flag_values(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments with `=true` added to each of these options that has no value."""
    following = [*arguments[1:], "--"][: len(arguments)]
    return [
        f"{word}=true" if word in flags and after.startswith("-") else word
        for word, after in zip(arguments, following, strict=True)
    ]


def nearest_options(parser: ArgumentParser, arguments: Sequence[str], message: str = "") -> str:
    """Known options that are spelled like unknown ones, a line each.

    Args:
        parser: what knows options.
        arguments: that it was given.
        message: its error, which names arguments that a class in the configuration does not have.
    """
    options = option_strings(parser)
    options = [option for option in options if not option.endswith(".help")]
    # What is below an option, like --data.num_workers, is known to the class that is chosen there alone.
    ends = [option + "." for option in options]
    ends = tuple(end for end in ends if not any(option.startswith(end) for option in options))
    given = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    unknown = [word for word in given if word not in options and not word.startswith(ends)]
    nearest = {word: difflib.get_close_matches(word, options, n=1) for word in unknown}
    lines = {word: found[0] for word, found in nearest.items() if found}
    lines |= _nearest_arguments(given, message)
    return "".join(f"{word}: did you mean {meant}?\n" for word, meant in lines.items())


def _nearest_arguments(given: Sequence[str], message: str) -> dict[str, str]:
    """What may have been meant by arguments that classes do not have, as they are called on the command line; or by
    their own names, if they are not there but in a file."""
    meant = {}
    for path, name in _UNKNOWN_ARGUMENT.findall(message):
        for found in difflib.get_close_matches(name, argument_names(path), n=1):
            words = [word for word in given if word.endswith(f".{name}")] or [name]
            meant |= {word: word.removesuffix(name) + found for word in words}
    return meant


def argument_names(path: str) -> list[str]:
    """Names of the arguments that a configuration can give to a class; none if there is no class at that path."""
    try:
        kind = import_class(path, object)
    except ValueError:  # a function
        return []
    parser = Parser()
    parser.add_class_arguments(kind, "own", fail_untyped=False)
    names = [option.removeprefix("--own.") for option in option_strings(parser) if option.startswith("--own.")]
    return [name for name in names if not name.endswith((".help", "+"))]


@contextmanager
def user_errors(only_if: Callable[[], bool] = lambda: True, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors that stand for something the user can mend into `UserError`: ValueError, OSError, ImportError.

    Args:
        only_if: asked when there is an error: whether it is the user's. An `InputError` always is.
        also: further classes of errors.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, *also) as error:
        if not isinstance(error, (InputError, *also)) and not only_if():
            raise
        raise UserError(str(error)) from error


@contextmanager
def helpful_messages_only() -> Iterator[None]:
    """Suppress messages of Lightning, diffusers and transformers that do not help users of a command."""
    import diffusers  # here, for commands that need none of them
    import transformers

    # Not before Lightning is imported: it would see a handler, make none of its own, and log through this one.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    handlers = [each for name in ("fabric", "pytorch") for each in logging.getLogger(f"lightning.{name}").handlers]

    def is_helpful(record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in UNHELPFUL_INFORMATION)

    def make_printable(record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return True

    roots = [*logging.getLogger().handlers]
    for handler in handlers:
        handler.addFilter(is_helpful)
    for handler in (*handlers, *roots):
        handler.addFilter(make_printable)
    try:
        with warnings.catch_warnings():
            for message in UNHELPFUL_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for handler in (*handlers, *roots):
            handler.removeFilter(is_helpful)
            handler.removeFilter(make_printable)


def expand_configs(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments with each `--config FILE_OR_NAME` replaced by `--config CONTENT`, and the files' paths.

    The content is that of the file over all that it extends; a name is that of a file in experiments/.

    Raises:
        UserError: if a file is missing or wrong.
    """
    expanded: list[str] = []
    files: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            with user_errors():
                file = find_config(value if equals else next(words, ""), "experiment", "experiments")
                content = read_config(file)
            files.append(file)
            expanded += ["--config", yaml.safe_dump(content, sort_keys=False)]
        else:
            expanded.append(word)
    return expanded, files


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
