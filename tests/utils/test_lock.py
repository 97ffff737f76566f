"""One process at a time writes to a place."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hn.utils.files import claimed_directory
from hn.utils.lock import InUseError, locked

HOLD = """
import sys, time
from pathlib import Path
from hn.utils.lock import locked
with locked(Path(sys.argv[1]), is_folder=True):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_place_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    for place, is_folder in ((tmp_path / "runs" / "x.1", True), (tmp_path / "out" / "scores.jsonl", False)):
        with locked(place, is_folder):
            message = f"{place} is in use by process {os.getpid()} on {socket.gethostname()}, which writes there"
            with pytest.raises(InUseError, match=message), locked(place, is_folder):
                pass
            with locked(place.with_name("another"), is_folder):
                pass
        with locked(place, is_folder):  # free again
            pass
    assert not list(tmp_path.iterdir())  # nothing was written


def test_what_was_written_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "x", is_folder=True):
        (tmp_path / "x" / "a").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "a"]


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(InUseError, match=f"process {holder.pid} on "), locked(tmp_path, is_folder=True):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    finally:
        holder.kill()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path, is_folder=True):
        pass
    assert not (tmp_path / ".lock").exists()


def test_an_empty_folder_of_a_working_process_is_not_taken(tmp_path: Path) -> None:
    with claimed_directory(tmp_path / "x") as first, claimed_directory(tmp_path / "x") as second:
        assert (first, second) == (tmp_path / "x", tmp_path / "x_2")
    (tmp_path / "y").mkdir()
    with claimed_directory(tmp_path / "y") as found:
        assert found == tmp_path / "y"
