"""The command `hn` before anything is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hn.__main__ import NUMBERS, SLURM_NUMBERS, wrong_number

PLACE = dict.fromkeys((*NUMBERS, *SLURM_NUMBERS), "1")


@pytest.mark.parametrize("name", PLACE)
@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5", "\u0663"])
def test_a_place_among_processes_that_is_no_number_is_named(name: str, value: str) -> None:
    for environment in ({name: value}, {**PLACE, name: value}):
        message = wrong_number(environment)
        assert message.startswith(f"The environment variable {name} is {value!r}, and has to be a whole number")
        assert message.endswith(f"(`unset {name}`).")


def test_places_and_none_at_all_are_fine() -> None:
    assert wrong_number({}) is None and wrong_number(PLACE) is None


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_the_command_says_so_and_nothing_else(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in PLACE}
    command = [sys.executable, "-m", "hn", "prompts", "list"]
    found = subprocess.run(command, env={**environment, name: "one"}, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"error: {wrong_number({name: 'one'})}\n"


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
