import json
import random
from pathlib import Path

import pytest

from hn.data import read_prompts
from hn.data.formats import has_known_ending

ROW = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_jsonl_keeps_the_whole_row(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps(ROW) + '\n\n{"prompt": " a dog "}\n')
    assert read_prompts(path) == [ROW, {"prompt": "a dog"}]


def test_txt_has_one_prompt_a_line(tmp_path):
    # a byte order mark, Windows line ends, blank lines, and a line separator inside a prompt
    path = write(tmp_path / "a.txt", "\ufeffa dog\r\n  \r\n a cat\u2028asleep \n".encode())
    assert read_prompts(path) == [{"prompt": "a dog"}, {"prompt": "a cat\u2028asleep"}]


def test_csv_has_quoted_fields_and_columns_in_lower_case(tmp_path):
    # as DrawBench: Windows line ends, quotation marks, outer spaces, no final newline; and a line break in quotes
    content = 'Prompts,Category\r\n"A sign, ""HN"".",Text \r\n\r\n"A dog\nasleep",Gary Marcus et al. '
    assert read_prompts(write(tmp_path / "a.csv", content)) == [
        {"prompt": 'A sign, "HN".', "category": "Text"},
        {"prompt": "A dog\nasleep", "category": "Gary Marcus et al."},
    ]


def test_tsv_leaves_quotation_marks_alone(tmp_path):
    # as PartiPrompts
    content = 'Prompt\tCategory\tNote\n"G I G" L E\tText\t\n "a\tIndoor\tx, y"\n'
    assert read_prompts(write(tmp_path / "a.tsv", content)) == [
        {"prompt": '"G I G" L E', "category": "Text", "note": ""},
        {"prompt": '"a', "category": "Indoor", "note": 'x, y"'},
    ]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ([" a dog ", "a\ncat"], [{"prompt": "a dog"}, {"prompt": "a\ncat"}]),
        ([ROW, "a dog"], [ROW, {"prompt": "a dog"}]),
        ({"0": "a dog", "7": "a cat"}, [{"prompt": "a dog"}, {"prompt": "a cat"}]),
    ],
)
def test_json_is_a_list_or_has_prompts_as_values(tmp_path, content, rows):
    assert read_prompts(write(tmp_path / "a.json", json.dumps(content, indent=1))) == rows


def test_a_folder_has_a_prompt_a_file(tmp_path):
    # as DPG-Bench
    for name, content in {"2.txt": " A dog,\nasleep. ", "10.txt": "a cat", "notes.md": "no prompt"}.items():
        write(tmp_path / name, content)
    assert read_prompts(tmp_path) == [
        {"prompt": "a cat", "item": "10"},
        {"prompt": "A dog,\nasleep.", "item": "2"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "holds no prompts"),
        ("a.jsonl", b"", "holds no prompts"),
        ("a.json", b" \n", "holds no prompts"),
        ("a.json", b"[]", "holds no prompts"),
        ("a.csv", b"", "holds no prompts"),
        ("a.csv", b"prompt\n", "holds no prompts"),
        ("a.txt", b"a dog\n\xff\xfe cat\n", "line 2: not valid UTF-8"),
        ("a.tsv", b"prompt\na dog\n\xff\n", "line 3: not valid UTF-8"),
        ("a.jsonl", b'{"prompt": "x"}\n\n{"prompt": \n', r"line 3: not valid JSON \(Expecting value at column"),
        ("a.jsonl", b'{"prompt": "x"}\n["x"]\n', "line 2: expected an object"),
        ("a.jsonl", b'{"text": "x"}\n', "line 1: expected an object"),
        ("a.jsonl", b'{"prompt": " "}\n', "line 1: expected an object"),
        ("a.json", b'[\n"x",\n]', r"not valid JSON \(.* at line [23], column"),
        ("a.json", b'"x"', "expected a JSON list of prompts"),
        ("a.json", b'["x", 3]', "item 2: expected an object"),
        ("a.json", b'["x", ""]', "item 2: expected an object"),
        ("a.csv", b"name,kind\na,b\n", "line 1: expected distinct names .* prompt, .*; found name, kind"),
        ("a.csv", b"prompt,text\na,b\n", "line 1: expected distinct names of columns, exactly one of them"),
        ("a.csv", b"prompt,kind,kind\na,b,c\n", "line 1: expected distinct names of columns"),
        ("a.csv", b"prompt,kind\na,b\nc\n", "line 3: has 1 columns, the first line has 2"),
        ("a.csv", b"prompt,kind\n ,b\n", "line 2: expected an object with a non-empty"),
        ("a.csv", b'prompt\n"a" b\n', r"line 2: not a valid table \("),
        ("a.csv", b'prompt\n"a\n', r"not a valid table \(unexpected end"),
        ("a.xml", b"x\n", r"end in .jsonl, .txt, .csv, .tsv or .json, not '.xml'"),
    ],
)
def test_wrong_files_are_named_with_the_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        read_prompts(write(tmp_path / name, content))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts(tmp_path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt: there is no such prompt file"):
        read_prompts(tmp_path / "none.txt")


def test_a_folder_has_no_hidden_prompts_and_endings_of_any_case(tmp_path):
    for name, text in {"a.TXT": "a dog", "b.txt": "a cat", "._a.txt": "Mac OS X", ".c.txt": "x", "d.md": "y"}.items():
        write(tmp_path / name, text)
    (tmp_path / "e.txt").mkdir()
    assert read_prompts(tmp_path) == [{"prompt": "a dog", "item": "a"}, {"prompt": "a cat", "item": "b"}]


@pytest.mark.parametrize("ending", ["JSONL", "Txt", "CSV", "TSV", "JSON"])
def test_endings_are_known_in_any_case(tmp_path, ending):
    text = {"JSONL": '{"prompt": "a dog"}', "JSON": '["a dog"]'}.get(ending, "prompt\na dog")
    path = write(tmp_path / f"a.{ending}", text)
    assert has_known_ending(path)
    assert read_prompts(path)[-1]["prompt"] == "a dog"


@pytest.mark.parametrize("row", ['{"prompt": "a \\ud83d dog"}', '{"prompt": "a dog", "tag": "\\udce9"}'])
def test_half_a_character_is_refused_with_its_line(tmp_path, row):
    path = write(tmp_path / "a.jsonl", '{"prompt": "\\ud83d\\ude00"}\n' + row)
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: '\\u(d83d|dce9)' is half a character"):
        read_prompts(path)


def test_files_of_random_bytes_give_prompts_or_one_message(tmp_path):
    rng = random.Random(0)
    pieces = [b'{"prompt": ', b'"a dog"', *(bytes([byte]) for byte in b'}[]\n,"\xff\t'), b"\\ud83d", b"null", b"prompt"]
    for ending in ("jsonl", "txt", "csv", "tsv", "json"):
        for _ in range(40):
            path = write(tmp_path / f"a.{ending}", b"".join(rng.choices(pieces, k=rng.randint(0, 12))))
            rows, message = [], str(path)
            try:
                rows = read_prompts(path)
            except ValueError as error:
                message = str(error)
            assert str(path) in message and "\n" not in message
            assert all(row["prompt"].strip() and row["prompt"].encode() for row in rows)
