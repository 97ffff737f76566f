from pathlib import Path

import pytest

from hn.data.sources import parse_sources


def parts(sources, purpose="train") -> list[tuple[str, float, int]]:
    return [(source.name, source.weight, len(source.files)) for source in parse_sources(sources, purpose)]


def test_files_names_lists_and_mappings():
    assert parts("a.txt") == [("a.txt", 1.0, 1)]
    assert parts(Path("b/a.jsonl")) == [("b/a.jsonl", 1.0, 1)]
    assert parts(["a.txt", "geneval"]) == [("a.txt", 1.0, 1), ("geneval", 1.0, 1)]
    mix = {"t2i_compbench": 2, "abc_6k": 0.5, "data/a.tsv": 1.0}
    assert parts(mix) == [("t2i_compbench", 2.0, 8), ("abc_6k", 0.5, 1), ("data/a.tsv", 1.0, 1)]


def test_the_weight_of_a_mix_is_that_of_its_parts():
    found = parts({"paper_mix_v1": 0.5})
    assert len(found) == 9
    assert all(weight == 0.5 for _, weight, _ in found)


def test_a_folder_is_a_source_unless_a_set_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "geneval").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_sources("own", "test")[0].files == (Path("own"),)
    assert parse_sources("./geneval", "test")[0].files == (Path("geneval"),)
    assert parse_sources("geneval", "test")[0].files[0].name == "geneval/test"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least one file or name"),
        ({}, "at least one file or name"),
        ("genevl", "no prompt set 'genevl'; did you mean geneval .* A prompt file ends in .jsonl"),
        ("a.xml", "no prompt set 'a.xml'.* A prompt file ends in .jsonl"),
        ("geneval/colour", "prompt set geneval has no 'colour'; it has test$"),
        ({"geneval": 0}, "the weight of geneval must be a positive number, not 0"),
        ({"geneval": -1.0}, "must be a positive number, not -1.0"),
        ({"geneval": float("nan")}, "must be a positive number, not nan"),
        ({"geneval": float("inf")}, "must be a positive number, not inf"),
        ({"geneval": True}, "must be a positive number, not True"),
        ({"geneval": "1"}, "must be a positive number, not '1'"),
    ],
)
def test_wrong_sources_are_named(sources, message):
    with pytest.raises(ValueError, match=message):
        parse_sources(sources, "train")
