"""The command `hn` before a command is imported."""

import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hn.__main__
import hn.cli
from hn.cli import COMMANDS, SHOWN, main, replace_unknown_characters
from hn.cli.environment import RANKS, SLURM_RANKS, invalid_rank

PLACE = dict.fromkeys((*RANKS, *SLURM_RANKS), "1")


@pytest.mark.parametrize("name", PLACE)
@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5", "\u0663"])
def test_a_place_among_processes_that_is_no_number_is_named(name: str, value: str) -> None:
    for environment in ({name: value}, {**PLACE, name: value}):
        message = invalid_rank(environment)
        assert message.startswith(f"The environment variable {name} is {value!r}, and has to be a whole number")
        assert message.endswith(f"(`unset {name}`).")


def test_places_and_none_at_all_are_fine() -> None:
    assert invalid_rank({}) is None and invalid_rank(PLACE) is None


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_the_command_says_so_and_nothing_else(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in PLACE}
    command = [sys.executable, "-m", "hn", "prompts", "list"]
    found = subprocess.run(command, env={**environment, name: "one"}, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"error: {invalid_rank({name: 'one'})}\n"


LARGE = ("torch", "lightning", "diffusers", "transformers")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--version"],
        ["trian"],
        ["prompts", "list"],
        *([command, "--help"] for command in ("prompts", "generate", "export", "report", "study")),
    ],
)
def test_a_command_imports_nothing_large_before_it_needs_it(arguments: list[str]) -> None:
    script = f"""
import sys
from hn.cli import main
try:
    main({arguments})
except SystemExit:
    pass
print("imported:", [name for name in {LARGE} if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("imported: []\n")


def test_every_command_of_the_table_is_there() -> None:
    for name, command in COMMANDS.items():
        module, _, function = command.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name
        assert command.help.endswith(".")


def test_help_lists_the_commands_with_and_without_a_word(capsys: pytest.CaptureFixture) -> None:
    shown = []
    for arguments in ([], ["--help"], ["-h"]):
        main(arguments)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == shown[2]
    assert len(shown[0].splitlines()) < 60
    for name, command in SHOWN.items():
        assert f"\n    {name} " in shown[0] and command.help in shown[0]
    assert COMMANDS.keys() - SHOWN.keys() == {"geneval", "judge"}
    assert "Old name" not in shown[0]


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"hn {hn.__version__}\n"


def test_an_unknown_command_is_told_what_was_meant_and_what_there_is(refuse) -> None:
    message = refuse("trian", "--config", "x.yaml")
    assert "Unknown command 'trian', did you mean train? The commands are train, compare, " in message
    for name in COMMANDS:
        assert (f" {name}" in message) == (name in SHOWN)
    assert "did you mean" not in refuse("xyz")
    assert "The command comes first: hn COMMAND" in refuse("--config", "x.yaml", "train")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script like the one that pip installs: Python puts its folder on the path, not the working directory."""
    script = tmp_path / "bin" / "hn"
    script.parent.mkdir()
    script.write_text(
        "import sys\nfrom hn.__main__ import find_modules_of_working_directory\nfind_modules_of_working_directory()\n"
        "try:\n    import my_rewards, pathlib\nexcept ImportError as error:\n    sys.exit(str(error))\n"
        "print(my_rewards.__name__, pathlib.__file__)\n"
    )
    return script


def test_modules_of_the_working_directory_are_found_and_take_no_library_s_place(tmp_path: Path, script: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("my_rewards", "pathlib"):
        (work / f"{name}.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("PYTHONSAFEPATH", None)
    found = subprocess.run([sys.executable, script], cwd=work, env=environment, capture_output=True, text=True)
    name, library = found.stdout.split()
    assert name == "my_rewards" and Path(library).parent != work
    safe = {**environment, "PYTHONSAFEPATH": "1"}
    found = subprocess.run([sys.executable, script], cwd=work, env=safe, capture_output=True, text=True)
    assert found.returncode == 1 and found.stderr == "No module named 'my_rewards'\n"


def test_the_walk_to_the_optimisers_step_names_files_that_are_there() -> None:
    files = re.findall(r"^\d+\. (hn/\S+\.py): ", hn.cli.__doc__, re.MULTILINE)
    assert len(files) == 12
    for file in files:
        assert (Path(hn.__file__).parents[1] / file).is_file(), file


@pytest.mark.parametrize("words", [["prompts", "caf\udce9"], ["generate", "--prompt=a \ud83d"], ["tr\udce9in"]])
def test_arguments_that_are_no_unicode_are_refused(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "is no valid UTF-8; rename or rewrite it." in capsys.readouterr().err


def test_a_terminal_without_the_characters_of_tables_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", stream)
    replace_unknown_characters()
    print("½ \u2500 \u2605")
    stream.flush()
    assert stream.buffer.getvalue() == "½ ? ?\n".encode("latin-1")


def test_an_unexpected_error_says_where_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("hn.__main__.run", lambda: {}["nothing"])
    monkeypatch.setattr("sys.argv", ["hn", "prompts", "a b"])
    monkeypatch.setattr("hn.__main__.find_modules_of_working_directory", lambda: None)
    with pytest.raises(SystemExit) as caught:
        hn.__main__.main()
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1] == "  hn prompts 'a b'"
    assert f"({hn.__version__})" in lines[-2]
