"""The command `hn` before anything is imported."""

import os
import subprocess
import sys

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
