"""Run benchmarks and keep what they measured: `python -m benchmarks [NAME ...]`, or make bench.

Results go to JSON, one file for each machine, and as tables to the terminal. Ratios are of ways that took turns in one
process; seconds are this machine's, and another program beside them changes them.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch

from hn.cli.parsing import helpful_messages_only
from hn.utils.device import find_device
from hn.utils.environment import environment
from hn.utils.files import write_json
from hn.utils.tables import as_text, new_table

NAMES = (
    "framework_overhead",
    "inference",
    "searches",
    "training_options",
    "estimators",
    "memory",
    "conditioning_cache",
    "scaling",
    "compact_sizes",
    "full_size",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them without a name")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto for the GPU if there is one")
    parser.add_argument("--rounds", type=int, default=10, help="how often each way is timed")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/results.json"), help="JSON file")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown or options.rounds < 2:
        parser.error(f"unknown {unknown}" if unknown else "--rounds must be at least 2")
    device = find_device(options.device)
    names = options.names or [name for name in NAMES if name != "full_size" or device.type == "cuda"]
    results: dict[str, Any] = {}
    if options.output.is_file():
        results = json.loads(options.output.read_text())  # of other benchmarks; those of these names are replaced
    results |= {"environment": environment() | {"device": str(device), "threads": torch.get_num_threads()}}
    for name in names:
        try:
            with helpful_messages_only():
                found = importlib.import_module(f"benchmarks.{name}").measure(device, options.rounds)
        except ValueError as error:
            parser.error(str(error))
        results[name] = found
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.output, results)
        print(table(name, found), end="\n\n", flush=True)
    print(f"results      {options.output}")


def table(name: str, found: dict[str, Any]) -> str:
    """The numbers of one benchmark, a row for each way."""
    rows = {key: value for key, value in found.items() if isinstance(value, dict)}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    shown = new_table()
    shown.add_column("")
    for column in columns:
        shown.add_column(column, justify="right")
    for key, row in rows.items():
        shown.add_row(key, *(_text(row.get(column)) for column in columns))
    others = [f"{key} {_text(value)}" for key, value in found.items() if key not in rows]
    return "\n".join([name, as_text(shown, width=140), *others])


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " .. ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
