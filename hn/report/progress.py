"""How far a long loop is: a bar on a terminal, a line now and then in a log file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def with_progress(items: Sequence[T], name: str, line_every: float = 30.0, unit: str = "batches") -> Iterator[T]:
    """The items one after the other, and how many of them are done on the standard error stream.

    Args:
        items: what the loop goes over.
        name: of the loop.
        line_every: seconds between lines where there is no terminal; the last item always gives one.
        unit: what the items are, in those lines.
    """
    with tqdm(total=len(items), desc=name, disable=None, dynamic_ncols=True, file=sys.stderr) as bar:
        started = said = time.perf_counter()
        for done, item in enumerate(items, 1):
            yield item
            bar.update()
            now = time.perf_counter()
            if bar.disable and (done == len(items) or now - said >= line_every):
                print(f"{name}: {done}/{len(items)} {unit}, {now - started:.1f} s", file=sys.stderr, flush=True)
                said = now
