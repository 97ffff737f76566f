"""Progress of long loops on stderr: a bar on a terminal, a line every 30 seconds elsewhere (log files, pipes)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

from hn.utils.text import printable, say

T = TypeVar("T")

_SCORING = 1.0  # cost of scoring an image, in forward passes of the network; used to estimate times only


def with_progress(items: Sequence[T], name: str, line_every: float = 30.0, unit: str = "batches") -> Iterator[T]:
    """Iterate over items and show the progress on stderr.

    Args:
        items: to iterate over.
        name: shown with the progress.
        line_every: seconds between lines where stderr is no terminal; the last item always prints one.
        unit: what the items are called in these lines.
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
    """Yield a function `tell(done, total)` that shows the progress on stderr, as `with_progress` does.

    Args:
        name: shown with the progress.
        line_every: seconds between lines where stderr is no terminal.
        unit: what is counted, in these lines.
        has_last_line: print a line at the end too, and keep the bar.
    """
    with tqdm(desc=printable(name), disable=None, dynamic_ncols=True, leave=has_last_line, file=sys.stderr) as bar:
        started = said = time.perf_counter()

        def tell(done: int, total: int) -> None:
            nonlocal said
            now = time.perf_counter()
            if not bar.disable:
                bar.total = total
                bar.update(done - bar.n)
            elif done and ((has_last_line and done == total) or now - said >= line_every):
                say(f"{name}: {done}/{total} {unit}, {now - started:.1f} s", file=sys.stderr, flush=True)
                said = now

        yield tell


@dataclass
class _Loop:
    """One of several loops: items left, expected cost of one, items done and their seconds."""

    left: int
    cost: float
    done: int = 0
    seconds: float = 0.0


class SharedProgress:
    """Progress of several consecutive loops, with the estimated time left for all of them.

    A loop that has started is extrapolated from its own speed, the others from their cost and the speed of the loops
    that ran. While a loop has an unknown cost, the estimate is shown as "at least".

    Args:
        loops: by name and in order, the number of items and the expected cost of one item in forward passes of the
            network (NaN if not known).
        line_every: seconds between lines where stderr is no terminal; the last item of a loop always prints one.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        loops: Mapping[str, tuple[int, float]],
        line_every: float = 30.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.loops = {name: _Loop(left, cost + _SCORING) for name, (left, cost) in loops.items()}
        self.line_every, self.clock = line_every, clock

    def seconds_left(self) -> tuple[float | None, bool]:
        """Estimated seconds left (None before the first item), and whether loops of unknown cost are missing."""
        known = [loop for loop in self.loops.values() if loop.done and not math.isnan(loop.cost)]
        per_cost = sum(loop.seconds for loop in known) / sum(loop.done * loop.cost for loop in known) if known else None
        total, is_partial = 0.0, False
        for loop in self.loops.values():
            if loop.left and loop.done:
                total += loop.left * loop.seconds / loop.done
            elif loop.left and per_cost is not None and not math.isnan(loop.cost):
                total += loop.left * loop.cost * per_cost
            else:
                is_partial |= loop.left > 0
        return (total if any(loop.done for loop in self.loops.values()) else None), is_partial

    def over(self, items: Sequence[T], name: str) -> Iterator[T]:
        """Iterate over the items of one loop and show the progress on stderr."""
        loop = self.loops[name]
        place = f"{list(self.loops).index(name) + 1}/{len(self.loops)}"
        bar_format = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        with tqdm(
            total=len(items), desc=printable(f"{place} {name}"), disable=None, dynamic_ncols=True, file=sys.stderr,
            bar_format=bar_format,
        ) as bar:  # fmt: skip
            first = started = said = self.clock()
            for done, item in enumerate(items, 1):
                yield item
                now = self.clock()
                loop.left, loop.done, loop.seconds = loop.left - 1, loop.done + 1, loop.seconds + now - started
                started = now
                left = _left(*self.seconds_left())
                bar.set_postfix_str(left, refresh=False)
                bar.update()
                if bar.disable and (done == len(items) or now - said >= self.line_every):
                    line = f"{name}: {done}/{len(items)} batches, {now - first:.1f} s; method {place}, {left}"
                    say(line, file=sys.stderr, flush=True)
                    said = now


def _left(seconds: float | None, is_partial: bool) -> str:
    if seconds is None or (seconds == 0 and is_partial):
        return "time left unknown"
    if seconds == 0:
        return "all done"
    return f"{'at least' if is_partial else 'about'} {tqdm.format_interval(seconds)} left"
