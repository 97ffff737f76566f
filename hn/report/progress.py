"""How far a long loop is: a bar on a terminal, a line now and then in a log file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    with progress_bar(name, line_every, unit, has_last_line=True) as tell:
        tell(0, len(items))
        for done, item in enumerate(items, 1):
            yield item
            tell(done, len(items))


@contextmanager
def progress_bar(
    name: str, line_every: float = 30.0, unit: str = "batches", has_last_line: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Gives what to call with how much is done, and how much there is in all, to show it as `with_progress` does.

    Args:
        name: of what is done.
        line_every: seconds between lines where there is no terminal.
        unit: what is counted, in those lines.
        has_last_line: whether the end gives a line too, and the bar stays.
    """
    with tqdm(desc=name, disable=None, dynamic_ncols=True, leave=has_last_line, file=sys.stderr) as bar:
        started = said = time.perf_counter()

        def tell(done: int, total: int) -> None:
            nonlocal said
            now = time.perf_counter()
            if not bar.disable:
                bar.total = total
                bar.update(done - bar.n)
            elif done and ((has_last_line and done == total) or now - said >= line_every):
                print(f"{name}: {done}/{total} {unit}, {now - started:.1f} s", file=sys.stderr, flush=True)
                said = now

        yield tell
