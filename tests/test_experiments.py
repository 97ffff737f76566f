"""The experiments as they are committed."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from hn.cli import main
from hn.config import EXTENDS, merge, read_config

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").rglob("*.yaml"))
EXPERIMENTS = [file for file in FILES if file.parent.name == "experiments"]


def name(path: Path) -> str:
    return path.stem


def leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def without(content: dict, path: tuple[str, ...]) -> dict:
    content = copy.deepcopy(content)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return content


def resolved(file: Path, capsys) -> dict:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--config", str(file), "--print_config"])
    assert caught.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_there_are_experiments():
    assert {"miniature", "miniature_long", "miniature_redness", "sdturbo_imagereward"} <= {*map(name, EXPERIMENTS)}


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_every_experiment_parses_and_what_it_names_is_there(file, capsys):
    config = resolved(file, capsys)
    assert config["trainer"]["max_steps"] > 0
    assert "best" in config["callbacks"]
    prompts = [config["data"]["init_args"][stage] for stage in ("train", "val", "test", "predict")]
    assert all((ROOT / path).is_file() for path in prompts)
    finetune = config["comparison"]["finetune"]
    assert finetune is None or ROOT / finetune in EXPERIMENTS


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_file_states_what_it_inherits(file):
    content = yaml.safe_load(file.read_text())
    names = content.pop(EXTENDS, [])
    inherited: dict = {}
    for base in [names] if isinstance(names, str) else names:
        inherited = merge(inherited, read_config(file.parent / base))
    whole = merge(inherited, content)
    needless = [path for path in leaves(content) if merge(inherited, without(content, path)) == whole]
    assert not needless


@pytest.mark.parametrize("hypernetwork", [file for file in EXPERIMENTS if "finetune" not in file.stem], ids=name)
def test_a_fine_tune_has_the_reward_and_the_budget_of_its_hypernetwork(hypernetwork, capsys):
    config = resolved(hypernetwork, capsys)
    if config["comparison"]["finetune"] is None:
        pytest.skip("compared with no fine-tune")
    finetune = resolved(ROOT / config["comparison"]["finetune"], capsys)
    networks = [c["model"].pop("hypernet") for c in (config, finetune)]
    assert networks[0]["class_path"] == "hn.hypernets.lora.LoraHypernet"
    assert networks[1]["class_path"] == "hn.hypernets.finetune.LoraFinetune"
    for option in ("rank", "alpha", "target_modules"):
        assert networks[0]["init_args"][option] == networks[1]["init_args"][option]
    for section in ("model", "data", "trainer", "callbacks", "seed_everything"):
        assert config[section] == finetune[section]


def test_sd_turbo_says_at_once_what_to_download(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as caught:
        main(["train", "--config", "experiments/sdturbo_imagereward.yaml", "--run.root", str(tmp_path / "runs")])
    assert caught.value.code == 2
    written = capsys.readouterr()
    assert "Cannot load 'stabilityai/sd-turbo'" in written.err
    # All at once: the generator's and those of both rewards.
    commands = [line.split("hf download ")[1] for line in written.err.splitlines() if "hf download " in line]
    names = ["stabilityai/sd-turbo", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "openai/clip-vit-large-patch14"]
    assert [command.split()[0] for command in commands] == names
    assert '--include "*.fp16*"' in commands[0]
    assert "Traceback" not in written.err
    assert not (tmp_path / "runs").exists()
