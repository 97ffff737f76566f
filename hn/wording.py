"""Words of messages."""

from collections.abc import Collection, Mapping


def some_of(names: Collection[str], most: int = 3) -> str:
    """The first few of some names, in alphabetical order."""
    first = sorted(names)[:most]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")


def differences(by_kind: Mapping[str, Collection[str]], most: int = 3) -> str:
    """How many names of each kind there are, and the first few: "2 missing (a, b); 1 unexpected (c)". Empty if none."""
    return "; ".join(f"{len(names)} {kind} ({some_of(names, most)})" for kind, names in by_kind.items() if names)
