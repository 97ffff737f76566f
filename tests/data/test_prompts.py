import json
from pathlib import Path

import pytest
import torch

from hn.data import PromptDataset, collate_prompts, read_prompts
from hn.data.prompts import normalised

SHARED_PROMPTS = Path(__file__).parents[3] / "shared" / "prompts"
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "holds no prompts"),
        ("a.jsonl", b"", "holds no prompts"),
        ("a.txt", b"a dog\n\xff\xfe cat\n", "line 2: not valid UTF-8"),
        ("a.jsonl", b'{"prompt": "x"}\n\n{"prompt": \n', r"line 3: not valid JSON \(Expecting value at column"),
        ("a.jsonl", b'{"prompt": "x"}\n["x"]\n', "line 2: expected an object"),
        ("a.jsonl", b'{"text": "x"}\n', "line 1: expected an object"),
        ("a.jsonl", b'{"prompt": " "}\n', "line 1: expected an object"),
        ("a.csv", b"x\n", r"end in .jsonl or .txt, not '.csv'"),
    ],
)
def test_wrong_files_are_named_with_the_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        read_prompts(write(tmp_path / name, content))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt: there is no such prompt file"):
        read_prompts(tmp_path / "none.txt")


def test_data_set_joins_files_in_order(tmp_path):
    first, second = write(tmp_path / "a.txt", "one\ntwo"), write(tmp_path / "b.jsonl", json.dumps(ROW))
    dataset = PromptDataset([str(first), second])
    assert dataset.prompts == ["one", "two", "a photo of a bench"]
    assert dataset[2] == {"prompt": "a photo of a bench", "metadata": ROW, "index": 2}
    assert len(PromptDataset(first)) == 2


def test_exclusion_comes_before_the_limit(tmp_path):
    path = write(tmp_path / "a.txt", "one\nTwo  words.\nthree\nfour\n")
    dataset = PromptDataset(path, limit=2, exclude=["two words", "four!"])
    assert dataset.prompts == ["one", "three"]
    assert dataset.n_excluded == 1
    assert [dataset[i]["index"] for i in range(2)] == [0, 1]


def test_data_set_errors(tmp_path):
    path = write(tmp_path / "a.txt", "one\n")
    with pytest.raises(ValueError, match="none is left"):
        PromptDataset(path, exclude=["One"])
    with pytest.raises(ValueError, match="limit must be at least 1"):
        PromptDataset(path, limit=0)
    with pytest.raises(ValueError, match="at least one file"):
        PromptDataset([])


@pytest.mark.parametrize(("a", "b", "same"), [("A Dog.", " a  dog", True), ("a dog", "a dogs", False)])
def test_normalised(a, b, same):
    assert (normalised(a) == normalised(b)) is same


def test_collate_keeps_metadata_as_it_is(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps(ROW) + '\n{"prompt": "a dog"}\n')
    dataset = PromptDataset(path)
    batch = collate_prompts([dataset[1], dataset[0]])
    assert batch["prompt"] == ["a dog", "a photo of a bench"]
    assert batch["metadata"] == [{"prompt": "a dog"}, ROW]
    assert torch.equal(batch["index"], torch.tensor([1, 0]))
    assert batch["index"].dtype == torch.int64


@pytest.mark.skipif(not SHARED_PROMPTS.is_dir(), reason="the shared prompt sets are not beside this repository")
def test_reads_the_published_sets():
    assert len(read_prompts(SHARED_PROMPTS / "geneval" / "evaluation_metadata.jsonl")) == 553
    for path in sorted(SHARED_PROMPTS.rglob("*.txt")):
        lines = path.read_text(encoding="utf-8").split("\n")
        assert len(read_prompts(path)) == sum(bool(line.strip()) for line in lines), path
