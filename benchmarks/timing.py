"""Ways to do the same, timed in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one way, and its ratio to the first one.

    Attributes:
        seconds: median over the rounds.
        ratio: median over the rounds of this way's seconds divided by the first one's in the same round.
        ratio_ci95: bootstrap interval of that median.
        warm_up: seconds of the first call, which is not one of the rounds.
    """

    seconds: float
    ratio: float
    ratio_ci95: tuple[float, float]
    warm_up: float


def side_by_side(ways: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, Timing]:
    """Time ways in turns, so that what else the machine does hits all of them alike.

    Args:
        ways: by name; the first one is what the others are compared with.
        rounds: how often each is called, after a call to warm up.
        device: what to wait for.
    """
    warm_up = {name: seconds_of(way, device) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    for turn in range(rounds):
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # none is always the first
            seconds[name].append(seconds_of(ways[name], device))
    first = np.array(next(iter(seconds.values())))
    rng = np.random.default_rng(0)
    timings = {}
    for name, own in seconds.items():
        ratios = np.array(own) / first
        draws = np.median(rng.choice(ratios, (2000, rounds)), axis=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        interval = (float(low), float(high))
        timings[name] = Timing(statistics.median(own), float(np.median(ratios)), interval, warm_up[name])
    return timings


def as_entries(timings: Mapping[str, Timing]) -> dict[str, dict[str, Any]]:
    """Timings as JSON has them."""
    return {name: asdict(timing) for name, timing in timings.items()}


def seconds_of(way: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, until the device is done."""
    wait(device)
    started = time.perf_counter()
    way()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
