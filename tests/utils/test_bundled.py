"""Files that come with hn are found from any working directory."""

from pathlib import Path

import pytest

from hn.utils.bundled import bundled, find_argument_paths, find_path, find_paths

ROOT = Path(__file__).parents[2]
PIPELINE = "data/miniature/pipeline"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bundled_files_are_those_of_the_repository() -> None:
    for path in (PIPELINE, "data/prompts/manifest.yaml", "experiments/shared/training.yaml"):
        assert bundled(path) == ROOT / path
        assert bundled(path).exists()


def test_a_relative_path_is_looked_up_in_the_working_directory_first(elsewhere: Path) -> None:
    assert find_path(PIPELINE) == str(ROOT / PIPELINE)
    (elsewhere / PIPELINE).mkdir(parents=True)
    assert find_path(PIPELINE) == PIPELINE


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "data",
        "experiments",
        "data/nothing",
        "objective.py",
        "data/../../objective.py",
        "/data/miniature",
        "a photo of a star",
    ],
)
def test_any_other_path_stays_as_it_is(path: str) -> None:
    assert find_path(path) == path


def test_paths_of_a_file_are_found_wherever_they_stand() -> None:
    content = {"data": [{"b": PIPELINE}, 1, None], "train": {"data/prompts/examples.jsonl": 1.0}, "c": "${a}/b"}
    found = {"data": [{"b": str(ROOT / PIPELINE)}, 1, None], "train": {str(ROOT / "data/prompts/examples.jsonl"): 1.0}}
    assert find_paths(content) == found | {"c": "${a}/b"}


def test_paths_of_a_command_are_found_but_for_those_that_are_written() -> None:
    found = str(ROOT / PIPELINE)
    words = ["generate", "--generator", PIPELINE, f"--vars.checkpoints={PIPELINE}", "--compare", "--prompt", "a=b"]
    expected = ["generate", "--generator", found, f"--vars.checkpoints={found}", "--compare", "--prompt", "a=b"]
    assert find_argument_paths(words) == expected
    written = ["--output", PIPELINE, f"--output={PIPELINE}", "--run.root", PIPELINE]
    assert find_argument_paths(written) == written


def test_the_home_folder_is_spelled_out_at_every_option_and_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    words = [
        "train",
        "--config",
        "~/a.yaml",
        "--run.root=~/runs",
        "--output",
        "~/out",
        "--c=~",
        "~nobody-of-that-name/x",
    ]
    expected = ["train", "--config", "/somewhere/a.yaml", "--run.root=/somewhere/runs", "--output", "/somewhere/out"]
    assert find_argument_paths(words) == [*expected, *words[-2:]]
    assert find_argument_paths(["--data.train", '["~/a", "b ~/c"]']) == ["--data.train", '["/somewhere/a", "b ~/c"]']
    assert find_paths({"data": ["~/p.jsonl", "a ~ b"]}) == {"data": ["/somewhere/p.jsonl", "a ~ b"]}
