"""Progress of a loop, on a terminal and in a log file."""

import re

import pytest

from hn.utils.progress import SharedProgress, with_progress


def test_a_log_file_gets_a_line_at_the_end(capsys):
    assert list(with_progress(["a", "b", "c"], "reno_50")) == ["a", "b", "c"]
    written = capsys.readouterr()
    assert written.out == ""
    assert re.fullmatch(r"reno_50: 3/3 batches, \d+\.\d s\n", written.err)


def test_a_log_file_gets_lines_on_the_way_of_a_long_loop(capsys):
    for item in with_progress([1, 2], "base", line_every=0.0):
        assert len(capsys.readouterr().err.splitlines()) == item - 1
    assert "base: 2/2 batches" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list(with_progress([1, 2], "base"))
    written = capsys.readouterr().err
    assert re.search(r"base: 100%.*2/2", written)
    assert "batches" not in written


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lines_of(progress, clock, name, seconds, capsys):
    for pause, _ in zip(seconds, progress.over(list(seconds), name), strict=True):
        clock.now += pause
    return capsys.readouterr().err.splitlines()


def test_the_time_left_of_all_loops_is_estimated(capsys):
    clock = Clock()
    progress = SharedProgress({"base": (2, 1), "best_of_9": (2, 9), "reno_9": (4, 9)}, clock=clock, line_every=0.0)
    assert progress.seconds_left() == (None, True)
    # 10 s for a batch of 1 pass and scoring; those of 9 passes are expected to take 5 times as long
    assert lines_of(progress, clock, "base", [10, 10], capsys) == [
        "base: 1/2 batches, 10.0 s; method 1/3, about 05:10 left",
        "base: 2/2 batches, 20.0 s; method 1/3, about 05:00 left",
    ]
    # the search is faster than expected, and the next one is expected to be as well: 80 s for 24 passes
    assert lines_of(progress, clock, "best_of_9", [30, 30], capsys)[1].endswith("method 2/3, about 02:13 left")
    assert progress.seconds_left() == (pytest.approx(4 * 10 * 80 / 24), False)
    assert lines_of(progress, clock, "reno_9", [1, 1, 1, 1], capsys)[3].endswith("method 3/3, all done")


def test_a_loop_of_unknown_cost_makes_it_a_lower_bound(capsys):
    clock = Clock()
    loops = {"base": (1, 1), "own": (3, float("nan")), "best_of_9": (1, 9)}
    progress = SharedProgress(dict(list(loops.items())[:2]), clock=clock, line_every=0.0)
    assert lines_of(progress, clock, "base", [10], capsys)[0].endswith("method 1/2, time left unknown")
    assert lines_of(progress, clock, "own", [7, 7, 7], capsys)[0].endswith("about 00:14 left")
    progress = SharedProgress(loops, clock=clock, line_every=0.0)
    assert lines_of(progress, clock, "base", [10], capsys)[0].endswith("at least 00:50 left")


def test_loops_that_were_finished_before_count_nothing(capsys):
    progress = SharedProgress({"base": (0, 1), "reno_9": (1, 9)}, clock=Clock())
    assert list(progress.over([], "base")) == []
    assert list(progress.over(["x"], "reno_9")) == ["x"]
    assert capsys.readouterr().err == "reno_9: 1/1 batches, 0.0 s; method 2/2, all done\n"


def test_a_terminal_gets_one_bar_with_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    clock = Clock()
    progress = SharedProgress({"base": (1, 1), "best_of_9": (2, 9)}, clock=clock)
    for _ in progress.over([1], "base"):
        clock.now += 10
    written = capsys.readouterr().err
    assert re.search(r"1/2 base 100%.*1/1.*about 01:40 left", written)
    assert "batches" not in written
