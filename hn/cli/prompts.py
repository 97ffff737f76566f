"""`hn prompts list|show|pull|check`: prompt sets."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.table import Table

from hn.cli.parsing import Parser, user_errors
from hn.data.formats import read_prompts
from hn.data.manifest import PromptFile, PromptSet, load_manifest
from hn.data.store import PromptStore, files_by_size, identify
from hn.utils.tables import as_text, new_table
from hn.utils.text import say


def run_prompts(arguments: Sequence[str]) -> None:
    """Run one command on prompt sets.

    Args:
        arguments: the command line after `hn prompts`.

    Raises:
        UserError: if the command is wrong, or a set is.
    """
    functions = {"list": list_sets, "show": show, "pull": pull, "check": check}
    parser = Parser(prog="hn prompts", description="List, show, fetch and check prompt sets.")
    subcommands = parser.add_subcommands()
    for name, function in functions.items():
        options = Parser(description=inspect.getdoc(function).split("\n\nArgs:")[0])
        if name == "show":
            options.add_argument("name", help="A set, files of a set, or a mix.")
        elif name != "list":
            options.add_argument("names", nargs="*", default=[], help="Sets, files of sets, or mixes.")
        if name == "pull":
            options.add_argument("--all", action="store_true", help="Every set that can be fetched.")
            options.add_argument("--from", metavar="FOLDER", help="Take the files from a folder instead.")
        options.add_function_arguments(function, skip={"name", "names", "all", "source"}, as_group=False)
        subcommands.add_subcommand(name, options, help=inspect.getdoc(function).splitlines()[0])
    config = parser.parse_args(arguments or ["--help"])
    options = vars(config[config.subcommand])
    if "from" in options:
        source = options.pop("from")
        options["source"] = None if source is None else Path(source)
    with user_errors():
        for line in functions[config.subcommand](**options):
            say(line, flush=True)


FIRST_PROMPTS = 5


def list_sets(folder: Path | None = None) -> Iterator[str]:
    """Show all sets and mixes: how many prompts, for what, under which licence, and whether they are on this machine.

    Args:
        folder: where fetched sets are kept; HN_PROMPTS of the environment or the user's cache folder by default.
    """
    store, manifest = PromptStore(folder), load_manifest()
    table = _table("name", "prompts", "split", "licence", "here")
    for found in manifest.sets.values():
        by_split = groupby(sorted(found.files.values(), key=lambda file: file.split), key=lambda file: file.split)
        splits = {split: list(files) for split, files in by_split}
        for split in dict.fromkeys(file.split for file in found.files.values()):
            name = found.name if len(splits) == 1 else f"{found.name}/{split}"
            files = splits[split]
            table.add_row(name, _count(files), split, _short(found.licence), _here(files, store))
        if not splits:
            table.add_row(found.name, "?", "-", _short(found.licence), "see show")
    for mix in manifest.mixes.values():
        files = manifest.find(mix.name)
        table.add_row(mix.name, _count(files), "mix", "of its parts", _here(files, store))
    yield from (as_text(table), "", f"Fetched sets are kept in {store.folder}.")


def show(name: str, folder: Path | None = None) -> Iterator[str]:
    """Show the facts of a set or mix, its files, and the first prompts of those that are on this machine.

    Args:
        name: of a set, of files of a set, or of a mix.
        folder: where fetched sets are kept; HN_PROMPTS of the environment or the user's cache folder by default.

    Raises:
        ValueError: if there is no such set.
    """
    store, manifest = PromptStore(folder), load_manifest()
    if name in manifest.mixes:
        mix = manifest.mixes[name]
        parts = [f"  {part:<32} {weight:g}" for part, weight in mix.parts.items()]
        yield from (f"{name}: {mix.about}", "", "parts and weights", *parts)
        return
    found = manifest.sets.get(name.partition("/")[0])
    if found is not None and found.obtain is not None:
        yield from (*_facts(found), "", found.obtain)
        return
    files = manifest.find(name)
    table = _table("file", "prompts", "distinct", "split", "here")
    for file in files:
        table.add_row(file.name, _count([file]), _number(file.versions[0].unique), file.split, _here([file], store))
    yield from (*_facts(manifest.sets[_set_name(files[0])]), "", as_text(table), "")
    here = next((file for file in files if store.is_here(file)), None)
    if here is None:
        yield f"`hn prompts pull {name}` fetches it."
        return
    yield f"first prompts of {here.name}"
    yield from (f"  {row['prompt']}" for row in read_prompts(store.require(here))[:FIRST_PROMPTS])


def pull(
    names: Sequence[str] = (), all: bool = False, source: Path | None = None, folder: Path | None = None
) -> Iterator[str]:
    """Fetch sets to this machine, or take them from a folder; files that are here and intact are left as they are.

    An interrupted transfer is resumed. Each file is verified by its checksum before it is put in place.

    Args:
        names: of sets, files of sets, or mixes.
        all: fetch every set that can be.
        source: take the files from this folder, wherever they lie in it and whatever their names are, instead.
        folder: where to keep them; HN_PROMPTS of the environment or the user's cache folder by default.

    Raises:
        ValueError: if there is no such set, none is named, or files are not in `source`.
        DownloadError: if a file cannot be fetched.
    """
    store, manifest = PromptStore(folder), load_manifest()
    if all is bool(names):
        raise ValueError("name the sets to pull, or give --all; `hn prompts list` shows what there is")
    if all:
        names = [name for name, found in manifest.sets.items() if found.files]
    wanted = dict.fromkeys(file for name in names for file in manifest.find(name))
    candidates = None if source is None else files_by_size(source)
    missing = []
    for file in wanted:
        before = identify(store.path(file), file) if store.is_here(file) else None
        if before is not None or file.bundled:
            store.require(file)
            yield f"{_describe(file, store)}  is here"
        elif candidates is None:
            store.fetch(file, replace=True)
            yield f"{_describe(file, store)}  fetched (licence: {manifest.sets[_set_name(file)].licence})"
        elif (taken := store.take(file, candidates)) is not None:
            yield f"{_describe(file, store)}  from {taken}"
        else:
            missing.append(file.name)
    if missing:
        raise ValueError(
            f"{source} has no file with the checksum of {', '.join(missing)}; without --from, the network is tried"
        )
    yield f"{len(wanted)} files are here, fetched ones in {store.folder}"


def check(names: Sequence[str] = (), folder: Path | None = None) -> Iterator[str]:
    """Verify the sets that are on this machine: checksum, UTF-8, format and number of prompts.

    Args:
        names: of sets, files of sets, or mixes; all sets by default.
        folder: where fetched sets are kept; HN_PROMPTS of the environment or the user's cache folder by default.

    Raises:
        ValueError: if there is no such set, a named one is not here, or a file is wrong; one line for each.
    """
    store, manifest = PromptStore(folder), load_manifest()
    every = [name for name, found in manifest.sets.items() if found.files]
    files = list(dict.fromkeys(file for name in names or every for file in manifest.find(name)))
    here = [file for file in files if store.is_here(file)]
    wrong = [] if not names else [f"{file.name}: is not here" for file in files if file not in here]
    for file in here:
        try:
            path = store.require(file)
            version, n = identify(path, file), len(read_prompts(path))
            if version is not None and version.prompts not in (None, n):
                raise ValueError(f"{path} holds {n:,} prompts instead of {version.prompts:,}")
            yield f"{_describe(file, store)}  right"
        except (ValueError, OSError) as error:
            wrong.append(f"{file.name}: {error}")
    if wrong:
        raise ValueError("\n".join(["wrong or missing prompt files:", *wrong]))
    absent = len(files) - len(here)
    rest = f"; {absent} more are not on this machine" if absent else ""
    yield f"{len(here)} files are right{rest}"


def _facts(found: PromptSet) -> list[str]:
    facts = {
        "home": found.home,
        "on the Hub": found.hf,
        "licence": found.licence,
        "format": found.schema,
        "quirks": found.quirks,
        "filtered": "prompts with unsafe words are left out when it is read" if found.filter_unsafe else None,
    }
    lines = [f"  {label:<11} {fact}" for label, fact in facts.items() if fact]
    lines += [f"  {'from':<11} {url}" for url in found.urls]
    return [f"{found.name}: {found.about}", "", *lines]


def _describe(file: PromptFile, store: PromptStore) -> str:
    path = store.path(file)
    version = identify(path, file)
    count = f"{len(read_prompts(path)):>6,} prompts"
    published = file.versions[0].prompts
    if version is not None and version.filtered:
        count += f", a copy without unsafe rows (of {_number(published)})"
    return f"{file.name:<32} {count}"


def _set_name(file: PromptFile) -> str:
    return file.name.partition("/")[0]


def _here(files: Sequence[PromptFile], store: PromptStore) -> str:
    n = sum(store.is_here(file) for file in files)
    return "yes" if n == len(files) else "no" if n == 0 else f"{n} of {len(files)}"


def _count(files: Sequence[PromptFile]) -> str:
    counts = [file.versions[0].prompts for file in files]
    known = sum(count for count in counts if count is not None)
    if None not in counts:
        return f"{known:,}"
    return f"{known:,} + ?" if known else "?"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _short(licence: str) -> str:
    """A licence without what is said about it."""
    return licence.partition(" (")[0].partition(";")[0]


def _table(*headers: str) -> Table:
    table = new_table()
    for header in headers:
        table.add_column(header, justify="right" if header in ("prompts", "distinct") else "left", no_wrap=True)
    return table
