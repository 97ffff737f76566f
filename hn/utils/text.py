"""Text for the terminal: lists and differences in messages, and printing without control characters."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TextIO

# Control characters but for tab and newline, those that turn the direction of writing, and halves of surrogate pairs,
# which cannot be printed.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters as backslash escapes: names and prompts of files cannot steer a terminal."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def say(*values: Any, file: TextIO | None = None, flush: bool = False) -> None:
    """Print values with a space between them, and what `printable` says of them."""
    print(printable(" ".join(map(str, values))), file=file, flush=flush)


def some_of(names: Collection[str], most: int = 3) -> str:
    """The first names in alphabetical order, with ", ..." if there are more than `most`."""
    first = sorted(names)[:most]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")


def shortened(text: str, most: int = 80) -> str:
    """A text in quotes as messages show it: escaped, and the beginning of one that is longer than `most` characters."""
    return repr(text) if len(text) <= most else f"{text[:most]!r}... ({len(text)} characters)"


def require_unicode(text: str, what: str) -> None:
    """Refuse what no file of results could hold.

    Args:
        text: as Python has file names and arguments: bytes that are no UTF-8 are lone surrogates in it.
        what: begins the message, like "The file name".

    Raises:
        ValueError: if the text is no valid Unicode.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} {shortened(text)} is no valid UTF-8; rename or rewrite it.") from None


def count_of(number: int, what: str) -> str:
    """ "1 image", "2 images"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def differences(by_kind: Mapping[str, Collection[str]], most: int = 3) -> str:
    """Counts and first names of each kind, like "2 missing (a, b); 1 unexpected (c)"; empty if there are no names."""
    return "; ".join(f"{len(names)} {kind} ({some_of(names, most)})" for kind, names in by_kind.items() if names)


def changes(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Differences of two nested settings, like "a.b was 1 and is 2".

    Args:
        before: JSON values.
        now: JSON values.
        prefix: put before all names.
    """
    before, now = dict(_leaves(before, prefix)), dict(_leaves(now, prefix))
    nothing = "nothing"
    return [
        f"{name.rstrip('.') or 'settings'} was {before.get(name, nothing)} and is {now.get(name, nothing)}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name, nothing) != now.get(name, nothing)
    ]


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from _leaves(member, f"{prefix}{name}.")
    else:
        yield prefix, value
