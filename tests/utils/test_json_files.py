"""Damaged JSON files are named, with what is wrong."""

from pathlib import Path

import pytest

from hn.utils.json_files import read_json


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"é": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"é": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: not JSON"),
        (b'{"a": 1,\n "b": "cu', "line 2: not JSON"),
        (b"[]", "holds a JSON array, not an object"),
        (b"null", "holds a JSON null"),
        (b"1.5", "holds a JSON number"),
        (b"true", "holds a JSON boolean"),
        (b'"text"', "holds a JSON string"),
        (b'{"caf\xe9": 1}', "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"facts.json.*{message}.*Train it again."):
        read_json(path, "Train it again.")


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json")
