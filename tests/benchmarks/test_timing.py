import itertools

import pytest
import torch

from benchmarks import timing

CPU = torch.device("cpu")


def test_ways_take_turns_and_ratios_are_those_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is one that each way moves: `slow` takes twice as long as `quick`, and both get slower in time."""
    now, order = [0.0], []
    pace = itertools.count(1)

    def way(name: str, seconds: float):
        def call() -> None:
            order.append(name)
            now[0] += seconds * (1 + (next(pace) - 1) // 2)  # a turn of both, the same pace

        return call

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    found = timing.side_by_side({"quick": way("quick", 1.0), "slow": way("slow", 2.0)}, 3, CPU)
    assert order == ["quick", "slow", "quick", "slow", "slow", "quick", "quick", "slow"]
    assert found["quick"].seconds == 3.0  # of 2, 3 and 4
    assert found["slow"].ratio == 2.0
    assert found["slow"].ratio_ci95 == (2.0, 2.0)
    assert (found["quick"].warm_up, found["slow"].warm_up) == (1.0, 2.0)
