"""Rows on disk: the same rows, with little of them in memory."""

import pickle
from pathlib import Path

import pytest

from hn.data import PromptDataset
from hn.data.mapped import MappedRows

ROWS = [
    {"prompt": "a dog", "tag": "one", "include": [{"class": "dog", "count": 1}]},
    {"prompt": "two\nlines, U+2028 \u2028 and \x0c"},
    {"prompt": "ein Übermaß 犬", "n": None},
]


def written(folder: Path, rows=ROWS) -> MappedRows:
    return MappedRows.open_or_write(folder, lambda: iter(rows), lambda: {"seed": 3})


def not_read():
    raise AssertionError("the rows are there")


def test_rows_are_as_they_were(tmp_path):
    rows = written(tmp_path / "below" / "rows")
    for found in (rows, pickle.loads(pickle.dumps(rows)), MappedRows(rows.folder)):
        assert list(found) == ROWS and len(found) == 3
        assert found[-1] == ROWS[-1] and found[:2] == ROWS[:2]
        assert found.about["seed"] == 3
        with pytest.raises(IndexError):
            found[3]
    assert list(MappedRows.open_or_write(rows.folder, not_read, not_read)) == ROWS
    assert list(written(tmp_path / "empty", [])) == []


@pytest.mark.parametrize("name", ["rows.jsonl", "starts.npy", "about.json"])
def test_what_is_not_whole_is_written_anew(tmp_path, name, caplog):
    file = written(tmp_path / "rows").folder / name
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError):
        MappedRows(file.parent)
    assert list(written(file.parent)) == ROWS
    assert "is written anew" in caplog.text and file.read_bytes() == content
    file.unlink()
    assert list(written(file.parent)) == ROWS


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, small_files_only):
    message = r"cannot be kept in .*rows: File too large.* make room, or choose another"
    with pytest.raises(OSError, match=message), small_files_only():
        written(tmp_path / "rows", ROWS * 100)
    assert [path.name for path in tmp_path.iterdir()] == [".rows.lock"]


def test_an_error_in_the_source_leaves_nothing(tmp_path, own_store):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a dog"}\n{"text": "a cat"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: expected an object"):
        PromptDataset(file, purpose="train", memory_map=True)
    assert not list((own_store / "mapped").glob("[!.]*"))


def test_a_missing_file_is_named(tmp_path, own_store):
    with pytest.raises(FileNotFoundError, match=r"none.txt: there is no such prompt file"):
        PromptDataset(tmp_path / "none.txt", purpose="train", memory_map=True)


@pytest.mark.parametrize("memory_map", [False, True])
def test_a_large_set_is_not_in_memory(large_prompts, peak_of, memory_map):
    def read() -> None:
        dataset = PromptDataset(large_prompts, purpose="train", memory_map=memory_map)
        assert dataset[3_999]["prompt"].startswith("prompt 1999 long")
        assert sum(1 for _ in dataset.iterate_texts()) == 4_000

    size = large_prompts.stat().st_size
    peak = peak_of(read)
    assert peak < size / 5 if memory_map else peak > size
