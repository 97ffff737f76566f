"""Progress of a loop, on a terminal and in a log file."""

import re

from hn.report.progress import with_progress


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
