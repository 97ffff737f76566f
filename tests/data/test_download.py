import hashlib
import os
from pathlib import Path

import pytest

from hn.data.download import DownloadError, download

CONTENT = os.urandom(300_000)


def is_right(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()


@pytest.fixture
def destination(tmp_path) -> Path:
    return tmp_path / "set" / "file.txt"


@pytest.fixture
def part(destination) -> Path:
    destination.parent.mkdir()
    return destination.with_name("file.txt.part")


def only_file(destination: Path) -> bool:
    return [path.name for path in destination.parent.iterdir()] == ["file.txt"] and is_right(destination)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_file_is_fetched_once(server, destination, size):
    server.files["a.txt"] = CONTENT
    download([server.url("a.txt")], destination, is_right, size)
    assert only_file(destination)
    assert server.asked == [("a.txt", None)]


def test_a_file_address_works(tmp_path, destination, part):
    (tmp_path / "a.txt").write_bytes(CONTENT)
    part.write_bytes(CONTENT[:1000])  # a file address cannot go on, so it starts anew
    download([(tmp_path / "a.txt").as_uri()], destination, is_right)
    assert only_file(destination)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_transfer_that_breaks_goes_on_where_it_stopped(server, destination, size):
    server.files["a.txt"] = CONTENT
    server.cuts = [100_000, 150_000]
    download([server.url("a.txt")], destination, is_right, size)
    assert only_file(destination)
    assert server.asked == [("a.txt", None), ("a.txt", "bytes=100000-"), ("a.txt", "bytes=250000-")]


def test_a_later_call_goes_on(server, destination):
    server.files["a.txt"] = CONTENT
    server.cuts = [1000, 1000, 1000]
    with pytest.raises(DownloadError, match="cut off after 3,000 of 300,000 bytes"):
        download([server.url("a.txt")], destination, is_right, len(CONTENT))
    assert not destination.exists()
    download([server.url("a.txt")], destination, is_right, len(CONTENT))
    assert only_file(destination)
    assert server.asked[-1] == ("a.txt", "bytes=3000-")


def test_a_server_without_ranges_starts_anew(server, destination):
    server.files["a.txt"], server.ranges = CONTENT, False
    server.cuts = [100_000]
    download([server.url("a.txt")], destination, is_right)
    assert only_file(destination)
    assert server.asked == [("a.txt", None), ("a.txt", "bytes=100000-")]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("before", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_wrong_beginning_is_thrown_away(server, destination, part, before, size):
    server.files["a.txt"] = CONTENT
    part.write_bytes(before)
    download([server.url("a.txt")], destination, is_right, size)
    assert only_file(destination)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_part_that_is_whole_already_is_taken(server, destination, part, size):
    server.files["a.txt"] = CONTENT
    part.write_bytes(CONTENT)
    download([server.url("a.txt")], destination, is_right, size)
    assert only_file(destination)
    assert server.asked == ([] if size else [("a.txt", "bytes=300000-")])


def test_the_next_address_is_tried(server, destination):
    server.files |= {"wrong.txt": b"another file", "right.txt": CONTENT}
    urls = [server.url(name) for name in ("none.txt", "wrong.txt", "right.txt")]
    download(urls, destination, is_right)
    assert only_file(destination)
    assert [path for path, _ in server.asked] == ["none.txt", "wrong.txt", "right.txt"]


def test_errors_name_every_address_and_leave_nothing(server, destination, tmp_path):
    server.files["wrong.txt"] = b"another file"
    urls = [server.url("none.txt"), server.url("wrong.txt"), (tmp_path / "none.txt").as_uri(), "http://127.0.0.1:9/a"]
    with pytest.raises(DownloadError) as caught:
        download(urls, destination, is_right)
    lines = str(caught.value).splitlines()
    assert [line.startswith(url) for line, url in zip(lines, urls, strict=True)] == [True] * 4
    assert "the server answers 404 Not Found" in lines[0]
    assert "not the expected one (wrong checksum)" in lines[1]
    assert "No such file" in lines[2]
    assert "Connection refused" in lines[3]
    assert list(destination.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_leaves_nothing(server, destination, part):
    server.files["a.txt"] = CONTENT
    part.symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"geneval/test cannot be written to .*file\.txt: .*No space left"):
        download([server.url("a.txt")], destination, is_right, name="geneval/test")
    assert list(destination.parent.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "set").write_text("a file in the way")
    with pytest.raises(DownloadError, match=r"file\.txt cannot be written to .*set/file\.txt"):
        download([server.url("a.txt")], tmp_path / "set" / "file.txt", is_right)
