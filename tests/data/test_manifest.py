import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from hn.data import read_prompts
from hn.data.manifest import MANIFEST_FILE, Manifest, load_manifest
from hn.data.prompts import normalised
from hn.data.store import PromptStore, identify

SETS = {
    *(
        "examples",
        "miniature",
        "miniature_large",
        "redness",
        "geneval",
        "geneval2",
        "drawbench",
        "partiprompts",
        "dpg_bench",
        "t2i_compbench",
    ),
    *("abc_6k", "hpdv2", "pickapic_v1", "pickapic_v2", "pickapic_hypernoise", "hypernoise_examples", "reno_examples"),
}


@pytest.fixture
def written(tmp_path):
    """Writes a manifest with changes to one good set and one good file."""

    def write(set_changes: dict, file_changes: dict) -> Path:
        file = {"file": "a.txt", "split": "test", "prompts": 1, "unique": 1, "bytes": 2, "sha256": "0" * 64}
        facts = {"about": "a", "home": None, "hf": None, "licence": "MIT", "bundled": False, "filter_unsafe": False}
        facts |= {"schema": "s", "quirks": "none", "urls": ["http://x/"], "files": {"test": change(file, file_changes)}}
        path = tmp_path / "manifest.yaml"
        path.write_text(yaml.safe_dump({"sets": {"one": change(facts, set_changes)}, "mixes": {}}))
        return path

    return write


def change(facts: dict, changes: dict) -> dict:
    """The facts with changes; ... takes one out."""
    return {key: value for key, value in {**facts, **changes}.items() if value is not ...}


def test_every_set_is_there_with_every_field():
    manifest = load_manifest()
    assert manifest.sets.keys() == SETS
    for found in manifest.sets.values():
        assert all(isinstance(fact, str) and fact for fact in (found.about, found.licence, found.schema, found.quirks))
        assert found.home is None or re.fullmatch(r"https://\S+", found.home)
        assert found.hf is None or re.fullmatch(r"[\w.-]+/[\w.-]+", found.hf)
        assert bool(found.files) is not bool(found.obtain)
        for url in found.urls:
            assert re.fullmatch(r"https://\S+\b[0-9a-f]{40}(/\S*)?", url), f"{url} is not pinned to a commit"
    for file in (file for found in manifest.sets.values() for file in found.files.values()):
        assert file.split in ("train", "val", "test", "val_seen", "val_unseen")
        assert all(re.fullmatch("[0-9a-f]+", version.checksum) for version in file.versions)
        assert [version.filtered for version in file.versions] in ([False], [False, True])
        assert len(file.urls) == (0 if file.bundled else len(manifest.sets[file.name.partition("/")[0]].urls))
        unknown = file.name.startswith("pickapic_hypernoise/")
        for version in file.versions:
            counts = (version.prompts, version.unique, version.bytes)
            assert counts == (None,) * 3 if unknown else all(count > 0 for count in counts)


def test_addresses_are_quoted_and_pinned():
    (file,) = load_manifest().find("drawbench")
    assert file.urls[0] == (
        "https://raw.githubusercontent.com/apple/ml-diffusion-alignment-gflownet/12c59520669b195e919540b940a510cef6f46ae7"
        "/alignment/assets/DrawBench%20Prompts.csv"
    )
    (file,) = load_manifest().find("dpg_bench")
    assert file.urls == (
        "https://codeload.github.com/TencentQQGYLab/ELLA/zip/3c228f1dc6c4d3cad0a47493816151a419f14db3",
    )
    assert file.archive_folder == "dpg_bench/prompts"


def test_only_our_own_sets_and_free_ones_are_bundled():
    bundled = {name for name, found in load_manifest().sets.items() if found.bundled}
    assert bundled == {"examples", "miniature", "miniature_large", "redness"}
    assert all(load_manifest().sets[name].licence.startswith(("Apache-2.0", "MIT")) for name in bundled)
    beside = {path.relative_to(MANIFEST_FILE.parent).as_posix() for path in MANIFEST_FILE.parent.rglob("*.*")}
    assert beside == {
        *("manifest.yaml", "unsafe_words.txt", "examples.jsonl"),
        *("miniature/train.jsonl", "miniature/train_large.jsonl", "miniature/val.jsonl", "miniature/test.jsonl"),
        *("redness/train.jsonl", "redness/test.jsonl"),
    }


def test_bundled_files_are_as_the_manifest_says():
    store, manifest = PromptStore(), load_manifest()
    for name in ("examples", "miniature", "miniature_large", "redness"):
        for file in manifest.find(name):
            version = identify(store.require(file), file)
            prompts = [row["prompt"] for row in read_prompts(store.path(file))]
            assert (len(prompts), len(set(prompts))) == (version.prompts, version.unique), file.name


def test_our_examples_are_varied_and_distinct():
    rows = read_prompts(MANIFEST_FILE.parent / "examples.jsonl")
    assert len({normalised(row["prompt"]) for row in rows}) == len(rows) >= 100
    categories = Counter(row["category"] for row in rows)
    assert {"object", "counting", "color", "position", "style", "long"} <= categories.keys()
    assert min(categories.values()) >= 8
    assert all(len(row["prompt"].split()) >= 30 for row in rows if row["category"] == "long")


@pytest.mark.parametrize(
    ("name", "n", "prompts"),
    [
        ("geneval", 1, 553),
        ("geneval/test", 1, 553),
        ("t2i_compbench", 22, 5600 + 2400 + 900),
        ("t2i_compbench/train", 8, 5600),
        ("t2i_compbench/val", 8, 2400),
        ("t2i_compbench/color", 4, 700 + 300 + 300),
        ("t2i_compbench/color/train", 1, 700),
        ("t2i_compbench/*spatial/val", 3, 900),
        ("hpdv2/photo", 1, 800),
        ("hpdv2", 4, 3200),
        ("paper_mix_v1", 9, 7 * 700 + 6434 + 25432),
    ],
)
def test_names_stand_for_files(name, n, prompts):
    files = load_manifest().find(name)
    assert (len(files), sum(file.versions[0].prompts for file in files)) == (n, prompts)


@pytest.mark.parametrize(
    ("name", "purpose", "splits"),
    [
        ("t2i_compbench", "train", {"train"}),
        ("t2i_compbench", "val", {"val"}),
        ("t2i_compbench", "test", {"val"}),
        ("t2i_compbench/color", "train", {"train"}),
        ("t2i_compbench/color/val_seen", "train", {"val_seen"}),
        ("t2i_compbench/train", "test", {"train"}),
        ("pickapic_v1", "train", {"train"}),
        ("pickapic_v1", "val", {"test"}),
        ("miniature", "predict", {"test"}),
        ("geneval", "train", {"test"}),
        ("abc_6k", "test", {"train"}),
    ],
)
def test_the_purpose_settles_a_split_that_is_left_open(name, purpose, splits):
    assert {file.split for file in load_manifest().choose(name, purpose)} == splits


def test_the_papers_mix_leaves_out_one_category():
    names = [file.name for file in load_manifest().find("paper_mix")]
    assert len(names) == 9
    assert not [name for name in names if "3d_spatial" in name]
    assert {"abc_6k/train", "pickapic_hypernoise/train"} <= set(names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("genevl", "no prompt set 'genevl'; did you mean geneval"),
        ("t2i_compbnch/color/train", "did you mean t2i_compbench/color/train"),
        ("paper_mx", "did you mean paper_mix"),
        ("xyzzy", r"no prompt set 'xyzzy'; `hn prompts list`"),
        ("geneval/colour", "prompt set geneval has no 'colour'; it has test"),
        ("pickapic_v2", "pickapic_v2: it has no text file to fetch: after pip install 'hn"),
    ],
)
def test_unknown_names_are_helped(name, message):
    with pytest.raises(ValueError, match=message):
        load_manifest().find(name)


def test_a_split_that_cannot_be_settled_is_asked_for(make_manifest):
    manifest = make_manifest({"odd": {"a.txt": ("val_seen", b"a"), "b.txt": ("val_unseen", b"b")}})
    with pytest.raises(ValueError, match="odd leaves open which split is meant: name one of val_seen, val_unseen"):
        manifest.choose("odd", "val")


@pytest.mark.parametrize(
    ("set_changes", "file_changes", "message"),
    [
        ({"licence": ...}, {}, "one: lacks licence"),
        ({"license": "MIT"}, {}, "one: has unknown fields license"),
        ({"files": {}}, {}, "one: needs files, or `obtain`"),
        ({"urls": []}, {}, "one: needs urls, or to be bundled"),
        ({}, {"split": ...}, "one/test: needs `file` and `split`"),
        ({}, {"sha256": ...}, "one/test: needs exactly one of sha256, git_blob, git_tree"),
        ({}, {"git_tree": "0" * 40}, "one/test: needs exactly one of"),
        ({}, {"sha256": "12ab"}, "one/test: sha256 must be a string of hexadecimal digits, not '12ab'"),
        ({}, {"unique": ...}, "one/test: needs prompts, unique and bytes"),
        ({}, {"lines": 4}, r"one/test: needs .* nothing else of \['lines'\]"),
        ({}, {"filtered": {"prompts": 1}}, "one/test, filtered: needs exactly one of"),
    ],
)
def test_a_wrong_manifest_is_named_with_the_entry(written, set_changes, file_changes, message):
    with pytest.raises(ValueError, match=rf"manifest\.yaml: {message}"):
        Manifest(written(set_changes, file_changes))


def test_a_mix_of_unknown_sets_is_refused(written):
    path = written({}, {})
    content = yaml.safe_load(path.read_text())
    content["mixes"]["both"] = {"about": "a mix", "parts": {"one": 1.0, "two": 1.0}}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="there is no prompt set 'two'"):
        Manifest(path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing: install hn again"):
        Manifest(tmp_path / "manifest.yaml")
