import hashlib
import json
from pathlib import Path

import pytest
import torch

from hn.data import PromptDataset, collate_prompts
from hn.data.mix import Part
from hn.data.prompts import normalised

ROW = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


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


def test_named_sets_files_and_folders_are_read_alike(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "1.txt", "a dog")
    dataset = PromptDataset(["examples", folder, write(tmp_path / "a.csv", "prompt,kind\na cat,pet\n")])
    assert len(dataset) == 144 + 2
    assert dataset[0]["metadata"].keys() == {"prompt", "category"}
    assert dataset[145]["metadata"] == {"prompt": "a cat", "kind": "pet"}


def test_a_named_set_is_fetched_when_it_is_first_read(server, make_manifest, own_store):
    server.files["words.txt"] = b"a dog\na cat\n"
    make_manifest({"words": {"words.txt": ("test", b"a dog\na cat\n")}}, urls=[server.url()])
    for _ in range(2):
        assert PromptDataset("words").prompts == ["a dog", "a cat"]
    assert len(server.asked) == 1
    assert (own_store / "words" / "words.txt").read_bytes() == b"a dog\na cat\n"


def test_the_purpose_decides_the_split():
    for purpose, n in {"train": 720, "val": 40, "test": 94, "predict": 94}.items():
        assert len(PromptDataset("miniature", purpose=purpose, deduplicate=None)) == n
    assert len(PromptDataset("miniature/train", purpose="val")) == 720


def test_repeats_of_files_are_left_out_if_asked_for(tmp_path):
    first, second = write(tmp_path / "a.txt", "one\nOne.\ntwo"), write(tmp_path / "b.txt", "two \nthree")
    assert PromptDataset([first, second]).prompts == ["one", "One.", "two", "two", "three"]
    assert PromptDataset([first, second], deduplicate=None).prompts == ["one", "One.", "two", "two", "three"]
    dataset = PromptDataset([first, second], deduplicate=True)
    assert (dataset.prompts, dataset.n_repeated) == (["one", "two", "three"], 2)


def test_repeats_of_named_sets_are_left_out_unless_they_are_meant(make_manifest, own_store, tmp_path):
    sets = {name: {"a.txt": ("train", b"one\nOne\ntwo\n")} for name in ("plain", "meant")}
    options = {"urls": ["http://127.0.0.1:9/"]}
    for keep, expected in ((False, ["one", "two"]), (True, ["one", "One", "two"])):
        make_manifest(sets, keep_repeats=keep, **options)
        (own_store / "plain").mkdir(parents=True, exist_ok=True)
        write(own_store / "plain" / "a.txt", "one\nOne\ntwo\n")
        assert PromptDataset("plain", deduplicate=None).prompts == expected
    assert PromptDataset("plain", deduplicate=True).prompts == ["one", "two"]
    # What a file brought is not repeated by a named set after it.
    make_manifest(sets, **options)
    assert PromptDataset([write(tmp_path / "b.txt", "TWO"), "plain"], deduplicate=None).prompts == ["TWO", "one"]


def test_unsafe_prompts_are_left_out_as_the_manifest_says_or_as_asked_for(make_manifest, own_store, tmp_path):
    (own_store / "web").mkdir(parents=True)
    content = "a dog\na nude\n"
    write(own_store / "web" / "a.txt", content)
    make_manifest({"web": {"a.txt": ("train", content.encode())}}, filter_unsafe=True)
    path = write(tmp_path / "own.txt", content)
    for paths, option, kept in (
        ("web", None, 1),
        ("web", False, 2),
        ("web", True, 1),
        (path, None, 2),
        (path, True, 1),
        (["web", path], None, 3),
    ):
        dataset = PromptDataset(paths, filter_unsafe=option)
        total = 4 if isinstance(paths, list) else 2
        assert (len(dataset), dataset.n_unsafe) == (kept, total - kept), (paths, option)


def test_weights_are_parts_in_training_and_repetitions_elsewhere(tmp_path):
    first, second = str(write(tmp_path / "a.txt", "one\ntwo\nthree")), str(write(tmp_path / "b.txt", "four"))
    mix = PromptDataset({first: 2.0, second: 1}, purpose="train")
    assert mix.prompts == ["one", "two", "three", "four"]
    assert mix.parts == [Part(0, 3, 2.0), Part(3, 4, 1.0)]
    assert mix.epoch_length == 7
    assert PromptDataset({first: 2.0, second: 1}).prompts == ["one", "two", "three"] * 2 + ["four"]
    assert PromptDataset({first: 1.5, second: 1}, limit=2, purpose="train").parts == [Part(0, 2, 1.5)]
    with pytest.raises(ValueError, match=r"a\.txt: a weight is for training; elsewhere it counts repetitions, not 1.5"):
        PromptDataset({first: 1.5}, purpose="val")


def test_a_damaged_set_is_not_read(make_manifest, own_store):
    make_manifest({"words": {"a.txt": ("test", b"a dog\n")}})
    (own_store / "words").mkdir(parents=True)
    write(own_store / "words" / "a.txt", "a cat\n")
    with pytest.raises(
        ValueError, match=r"a\.txt is not prompt set words/a: its sha256 is .*`hn prompts pull words/a`"
    ):
        PromptDataset("words")


def test_the_fingerprint_is_of_the_prompts_in_their_order(tmp_path):
    write(tmp_path / "a.txt", "a dog\na cat\na dog\n")
    dataset = PromptDataset(tmp_path / "a.txt")
    assert dataset.fingerprint == hashlib.sha256(b"a dog\na cat\na dog").hexdigest()


def test_an_empty_file_is_named(tmp_path):
    write(tmp_path / "empty.txt", "\n")
    with pytest.raises(ValueError, match=r"empty.txt: holds no prompts"):
        PromptDataset(tmp_path / "empty.txt")


@pytest.mark.parametrize("purpose", ["val", "test"])
def test_a_limit_of_an_evaluation_keeps_some_of_each_category(tmp_path, purpose):
    path = write(tmp_path / "a.txt", "".join(f"{kind} {k}\n" for kind in "abc" for k in range(4)))
    assert PromptDataset(path, limit=6, purpose=purpose).prompts == ["a 0", "a 2", "b 0", "b 2", "c 0", "c 2"]
    for purpose_of_first in ("train", "predict"):
        assert PromptDataset(path, limit=2, purpose=purpose_of_first).prompts == ["a 0", "a 1"]
    assert len(PromptDataset(path, limit=99, purpose=purpose)) == 12
