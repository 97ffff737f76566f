"""The published files themselves, where they are at hand."""

from collections import Counter

import pytest

from hn.cli import main
from hn.data import PromptDataModule, PromptDataset
from hn.data.manifest import load_manifest

NOT_HELD = ("geneval2", "dpg_bench", "pickapic_hypernoise", "pickapic_v2")
HELD = [name for name, found in load_manifest().sets.items() if not found.bundled and name not in NOT_HELD]


@pytest.fixture
def pulled(published, own_store, capsys) -> str:
    """Takes the published files to the store; what was said."""
    main(["prompts", "pull", *HELD, "--from", str(published)])
    return capsys.readouterr().out


def test_every_published_file_is_as_the_manifest_says(pulled, capsys):
    main(["prompts", "check", *HELD, "examples", "miniature"])
    n = sum(len(load_manifest().sets[name].files) for name in HELD) + 4
    assert f"{n} files are right\n" in capsys.readouterr().out
    assert "25,130 prompts, a copy without unsafe rows (of 25,432)" in pulled
    for file in (file for name in HELD for file in load_manifest().find(name)):
        version = file.versions[-1]
        prompts = PromptDataset(file.name, filter_unsafe=False).prompts
        assert (len(prompts), len(set(prompts))) == (version.prompts, version.unique), file.name


def test_the_rows_are_those_of_the_publications(pulled):
    geneval = PromptDataset("geneval")
    tags = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
    assert len(geneval) == 553 and Counter(row["tag"] for row in geneval.rows) == tags
    assert sum("exclude" in row for row in geneval.rows) == 80
    drawbench = PromptDataset("drawbench")
    assert len(drawbench) == 200 and len({row["category"] for row in drawbench.rows}) == 11
    assert Counter(row["category"] for row in drawbench.rows)["Gary Marcus et al."] == 10
    parti = PromptDataset("partiprompts")
    assert len(parti) == 1632 and len({row["category"] for row in parti.rows}) == 12
    assert sum(bool(row["note"]) for row in parti.rows) == 190
    assert sum('"G I G G L E"' in prompt for prompt in parti.prompts) == 1
    assert len({row["challenge"] for row in parti.rows}) == 11
    abc = PromptDataset("abc_6k")
    assert len(abc) == 6434 and len(set(abc.prompts)) == 6388
    for split, n in (("train", 700), ("val", 300)):
        files = load_manifest().find(f"t2i_compbench/{split}")
        assert [len(PromptDataset(file.name)) for file in files] == [n] * 8
    assert [len(PromptDataset(f"hpdv2/{style}")) for style in ("anime", "concept-art", "paintings", "photo")] == [
        800
    ] * 4
    assert sum("\n" in prompt for prompt in PromptDataset("hpdv2").prompts) == 4


def test_the_training_mix(pulled):
    data = PromptDataModule(train="paper_mix_v1", val="t2i_compbench", test=["geneval", "drawbench", "partiprompts"])
    data.prepare_data()
    data.setup("fit")
    dataset = data.datasets["train"]
    left_out = dataset.n_excluded + dataset.n_repeated + dataset.n_unsafe
    assert len(dataset) + left_out == 7 * 700 + 6434 + 25130
    assert dataset.n_excluded >= 6  # of shape and spatial alone
    assert 0 < dataset.n_unsafe < 0.05 * 25130
    assert len(data.datasets["val"]) == 2400
