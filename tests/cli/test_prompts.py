"""The subcommands of `hn prompts`, from the command line."""

import pytest

from hn.cli import main
from hn.data.manifest import Manifest, load_manifest

CONTENTS = {"train.txt": ("train", b"a dog\na cat\na cow\n"), "test.txt": ("test", b"a horse\n")}


@pytest.fixture
def hn(capsys):
    """Runs `hn prompts` with the arguments given; what it prints."""

    def run(*arguments: str) -> str:
        main(["prompts", *arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def words(server, make_manifest):
    server.files |= {name: content for name, (_, content) in CONTENTS.items()}
    make_manifest({"words": CONTENTS}, {"both": {"about": "a mix", "parts": {"words/train": 2.0}}}, urls=[server.url()])
    return server


def test_list_has_a_row_for_every_set_and_mix(hn, own_store):
    shown = hn("list")
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.startswith(" ")}
    for name in load_manifest().sets.keys() | load_manifest().mixes.keys():
        assert any(row == name or row.startswith(f"{name}/") for row in rows), name
    assert rows["geneval"] == ["geneval", "553", "test", "MIT", "no"]
    assert rows["examples"] == ["examples", "144", "test", "Apache-2.0", "yes"]
    assert rows["t2i_compbench/train"] == ["t2i_compbench/train", "5,600", "train", "MIT", "no"]
    assert rows["paper_mix"][1:4] == ["11,334", "+", "?"]
    assert f"Fetched sets are kept in {own_store}." in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_list_tells_what_is_here(hn, words):
    hn("pull", "words/train")
    rows = {line.split()[0]: line.split() for line in hn("list").splitlines() if line.startswith(" ")}
    assert rows["words/train"][-1] == "yes" and rows["words/test"][-1] == "no"
    assert rows["both"] == ["both", "3", "mix", "of", "its", "parts", "yes"]


def test_show_gives_the_facts_and_the_first_prompts(hn, words):
    shown = hn("show", "words")
    assert "licence     CC0" in shown and words.url() in shown
    assert "`hn prompts pull words` fetches it." in shown
    hn("pull", "words/train")
    shown = hn("show", "words")
    assert "first prompts of words/train\n  a dog\n  a cat\n" in shown
    assert "words/train                      2\n" in hn("show", "both")


def test_show_needs_nothing_fetched_for_bundled_sets(hn):
    assert "first prompts of examples/test\n  a red panda" in hn("show", "examples")
    assert "pip install 'hn" in hn("show", "pickapic_v2")


def test_pull_fetches_what_is_not_here(hn, words, own_store):
    shown = hn("pull", "both", "words")
    assert shown.count("fetched (licence: CC0)\n") == 2
    assert f"2 files are here, fetched ones in {own_store}" in shown
    assert hn("pull", "--all").count("is here\n") == 2
    assert len(words.asked) == 2
    (own_store / "words" / "train.txt").write_text("damaged")
    shown = hn("pull", "words")
    assert shown.count("fetched (") == 1 and shown.count("is here\n") == 1


def test_pull_takes_files_from_a_folder(hn, refuse, words, tmp_path, own_store):
    folder = tmp_path / "have" / "words"
    folder.mkdir(parents=True)
    (folder / "renamed").write_bytes(CONTENTS["train.txt"][1])
    message = refuse("prompts", "pull", "words", "--from", str(tmp_path / "have"), silent=False)
    assert f"{tmp_path}/have has no file with the checksum of words/test" in message
    assert (own_store / "words" / "train.txt").is_file()
    (folder / "test.txt").write_bytes(CONTENTS["test.txt"][1])
    shown = hn("pull", "words", "--from", str(tmp_path / "have"))
    assert f"1 prompts  from {folder}/test.txt" in shown
    assert words.asked == []


def test_the_folder_is_an_option(hn, words, tmp_path, own_store):
    hn("pull", "words", "--folder", str(tmp_path / "other"))
    assert (tmp_path / "other" / "words" / "test.txt").is_file()
    assert not own_store.exists()
    assert "2 files are right\n" in hn("check", "--folder", str(tmp_path / "other"))


def test_check_names_what_is_wrong(hn, refuse, words, own_store):
    assert hn("check") == "0 files are right; 2 more are not on this machine\n"
    assert "words/test: is not here" in refuse("prompts", "check", "words/test")
    hn("pull", "words")
    assert hn("check").endswith("2 files are right\n")
    (own_store / "words" / "train.txt").write_bytes(b"a dog\na cat\na c\xffw\n")
    message = refuse("prompts", "check", silent=False)
    assert "words/train: " in message and "words/test" not in message
    assert "`hn prompts pull words/train` fetches it anew" in message


def test_check_counts_prompts(hn, refuse, words, monkeypatch, tmp_path):
    path = tmp_path / "manifest.yaml"
    path.write_text(path.read_text().replace("prompts: 3", "prompts: 4"))
    monkeypatch.setattr("hn.cli.prompts.load_manifest", lambda: Manifest(path))
    hn("pull", "words")
    assert "train.txt holds 3 prompts instead of 4" in refuse("prompts", "check", silent=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "genevl"], "no prompt set 'genevl'; did you mean geneval"),
        (["pull"], "name the sets to pull, or give --all"),
        (["pull", "geneval", "--all"], "name the sets to pull, or give --all"),
        (["pull", "pickapic_v2"], "pip install 'hn"),
        (["pull", "geneval", "--from", "nothing-here"], "nothing-here is not a folder"),
        (["lst"], "invalid choice: 'lst'"),
        (["list", "--foldr", "x"], "--foldr"),
    ],
)
def test_a_slip_gives_one_message(refuse, arguments, message):
    assert message in refuse("prompts", *arguments)


def test_help_lists_the_subcommands(capsys):
    for arguments in (["prompts"], ["prompts", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        for name in ("list", "show", "pull", "check"):
            assert f"\n    {name} " in shown
    with pytest.raises(SystemExit):
        main(["prompts", "pull", "--help"])
    assert "--from FOLDER" in capsys.readouterr().out
    main(["--help"])
    assert "\n    prompts " in capsys.readouterr().out


def test_an_experiment_with_an_unknown_set_stops_before_anything_is_loaded(refuse, experiment, monkeypatch):
    monkeypatch.setattr("hn.cli.experiment.HnCLI.instantiate_classes", lambda self: pytest.fail("classes were made"))
    message = refuse("train", "--config", str(experiment), "--data.init_args.val", "genevl")
    assert message.splitlines()[-1].startswith("error: there is no prompt set 'genevl'; did you mean geneval")


def test_an_experiment_takes_names_and_weights(experiment, capsys):
    mix = "{t2i_compbench/color/train: 1.0, abc_6k: 0.5}"
    options = ["--data.init_args.train", mix, "--data.init_args.val", "[geneval, drawbench]", "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(experiment), *options])
    shown = capsys.readouterr().out
    assert "    train:\n      t2i_compbench/color/train: 1.0\n      abc_6k: 0.5\n" in shown
    assert "    val:\n    - geneval\n    - drawbench\n" in shown
