import csv
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hn.utils.files import (
    atomic_folder,
    atomic_write,
    cache_folder,
    claimed_directory,
    csv_text,
    expand_home,
    remove_temporary_files,
    require_unused,
    write_csv,
    write_json,
    write_text,
)


def fail(writing: AbstractContextManager[Path], file: str = "") -> None:
    """Write a part and raise an error."""
    with writing as temporary:
        (temporary / file if file else temporary).write_text("half")
        raise OSError("disk full")


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_only_by_a_complete_one(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a.json"
    for text in ("first", "second"):
        with atomic_write(path, durable=durable) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    with pytest.raises(OSError, match="disk full"):
        fail(atomic_write(path, durable=durable))
    assert path.read_text() == "second"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_the_content_is_on_the_disk_before_the_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    write_text(tmp_path / "a", "x")
    assert not flushed
    write_text(tmp_path / "a", "x", durable=True)
    with atomic_folder(tmp_path / "folder", durable=True) as temporary:
        (temporary / "b").touch()
        assert len(flushed) == 1
    assert [Path(name).name.split(".")[0] for name in flushed] == ["a", "b"]


def test_several_may_write_one_file_at_once(tmp_path: Path) -> None:
    texts = [str(i) * 10_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_text(tmp_path / "a", text), texts))
    assert (tmp_path / "a").read_text() in texts
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "clip"
    with atomic_folder(folder) as temporary:
        (temporary / "old.json").write_text("first")
    with pytest.raises(OSError, match="disk full"):
        fail(atomic_folder(folder), "config.json")
    assert [file.name for file in folder.iterdir()] == ["old.json"]
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_text("second")
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    assert [file.name for file in folder.parent.iterdir()] == ["clip"]


@pytest.mark.parametrize("here", [False, True])
def test_other_files_of_a_folder_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    folder = tmp_path / "weights"
    for size in (1, 2):  # made, then written again
        with atomic_folder("." if here and size == 2 else folder, keep_others=True) as temporary:
            (temporary / "a").write_text("a" * size)
        (folder / "notes").touch()
        monkeypatch.chdir(folder)
    with pytest.raises(OSError, match="disk full"):
        fail(atomic_folder(folder, keep_others=True), "a")
    assert (folder / "a").read_text() == "aa"
    assert sorted(file.name for file in folder.iterdir()) == ["a", "notes"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = []
    for name in ("[a]", "b"):  # brackets are no pattern
        writing = atomic_write(tmp_path / name)
        left.append((writing, writing.__enter__()))
        left[-1][1].touch()
    remove_temporary_files(tmp_path, "[a]")
    assert [file.exists() for _, file in left] == [False, True]
    folder = atomic_folder(tmp_path / "c")
    folder.__enter__()
    remove_temporary_files(tmp_path)
    assert not list(tmp_path.iterdir())


def test_json_is_readable_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"prompt": "★"})
    assert "★" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"prompt": "★"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_csv_quotes_what_needs_it(tmp_path: Path) -> None:
    rows = [
        {"file": "a.png", "prompt": 'a "red", ball', "clip": 0.1, "x": None},
        {"file": "b.png", "prompt": "é\nline", "clip": 1e-7, "y": math.nan},
    ]
    write_csv(tmp_path / "scores.csv", rows)
    assert (tmp_path / "scores.csv").read_bytes().decode() == (
        'file,prompt,clip,x,y\na.png,"a ""red"", ball",0.1,,\nb.png,"é\nline",1e-07,,\n'
    )


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "'=", "''-"])
def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path, start: str) -> None:
    text = f"{start}HYPERLINK(1)"
    write_csv(tmp_path / "scores.csv", [{text: text, "number": -0.5, "plain": "a = b - 'c'"}])
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        names, cells = csv.reader(file)
    text = text.replace("\r", "\n")
    assert names[0] == cells[0] == f"'{text}" and cells[1:] == ["-0.5", "a = b - 'c'"]
    assert [csv_text(cell) for cell in cells] == [text, *cells[1:]]


@pytest.mark.parametrize("text", ["", "'", "'a", "plain", "''"])
def test_other_cells_of_a_csv_stay(tmp_path: Path, text: str) -> None:
    write_csv(tmp_path / "scores.csv", [{"text": text, "more": "x"}])
    assert csv_text(text) == text
    assert (tmp_path / "scores.csv").read_text() == f"text,more\n{text},x\n"


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "runs" / "x", tmp_path / "runs" / "x_2"
    for _ in range(2):  # left empty, it is taken again
        with claimed_directory(first) as found:
            assert found == first and first.is_dir()
        first.mkdir(parents=True, exist_ok=True)
    (first / "a").touch()
    with claimed_directory(first) as found:
        assert found == second
        (found / "a").touch()
    (tmp_path / "runs" / "x_3").touch()
    with claimed_directory(first) as found:
        assert found == tmp_path / "runs" / "x_4"
    require_unused(tmp_path / "new")
    require_unused(tmp_path / "runs" / "x_4")
    for taken in ("x", "x_3"):
        with pytest.raises(ValueError, match=f"{taken} exists already and is not overwritten"):
            require_unused(tmp_path / "runs" / taken)


def test_a_user_without_a_home_folder_has_a_cache_among_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert (expand_home("~/a"), cache_folder("prompts")) == (Path("/home/me/a"), Path("/home/me/.cache/hn/prompts"))
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 54321)  # without an entry in /etc/passwd
    assert cache_folder("prompts").name == "prompts"
    assert "~" not in str(cache_folder("prompts"))
    for path in ("~/a", "~nobody_of_that_name/a"):
        with pytest.raises(ValueError, match=f"{path}: there is no home folder"):
            expand_home(path)
