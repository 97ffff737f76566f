"""The experiments as they are committed."""

import copy
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hn.cli import main
from hn.data.module import PURPOSES
from hn.data.sources import parse_sources
from hn.training.callbacks.suite import suites_in
from hn.utils.config import EXTENDS, merge, read_config
from tests.tiny_hub import substitute

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


@cache
def printed_config(file: Path) -> str:
    """What `hn train --print_config` prints, which takes seconds for each file."""
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as caught:
        main(["train", "--config", str(file), "--print_config"])
    assert caught.value.code == 0
    return printed.getvalue()


def resolved(file: Path) -> dict:
    return yaml.safe_load(printed_config(file))


def test_there_are_experiments():
    assert {"miniature", "miniature_long", "miniature_redness", "sdturbo_imagereward"} <= {*map(name, EXPERIMENTS)}


@pytest.mark.parametrize("file", EXPERIMENTS, ids=name)
def test_every_experiment_parses_and_what_it_names_is_there(file):
    config = resolved(file)
    assert config["trainer"]["max_steps"] > 0
    assert "best" in config["callbacks"]
    options = config["data"]["init_args"]
    sources = [source for purpose in PURPOSES for source in parse_sources(options[purpose], purpose)]
    sources += [
        source for suite in suites_in(config["callbacks"]) for source in parse_sources(suite["prompts"], "test")
    ]
    files = [file for source in sources for file in source.files]
    assert all((ROOT / file).is_file() for file in files if isinstance(file, Path))
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
def test_a_fine_tune_has_the_reward_and_the_budget_of_its_hypernetwork(hypernetwork):
    config = resolved(hypernetwork)
    if config["comparison"]["finetune"] is None:
        pytest.skip("compared with no fine-tune")
    finetune = resolved(ROOT / config["comparison"]["finetune"])
    networks = [c["model"].pop("hypernet") for c in (config, finetune)]
    assert networks[0]["class_path"] == "hn.hypernets.lora.LoraHypernet"
    assert networks[1]["class_path"] == "hn.hypernets.finetune.LoraFinetune"
    for option in ("rank", "alpha", "target_modules"):
        assert networks[0]["init_args"][option] == networks[1]["init_args"][option]
    for section in ("model", "data", "trainer", "callbacks", "seed_everything"):
        assert config[section] == finetune[section]


def with_stand_ins(config: dict, hub: Path) -> dict:
    """The configuration with tiny weights in the place of the Hub's, and bundled prompts in that of fetched ones."""
    config = substitute(config, hub)
    bundled = {"paper_mix_v1": "data/prompts/miniature/train.jsonl", "geneval": "data/prompts/redness/test.jsonl"}
    options = config["data"]["init_args"]
    options |= {key: bundled[value] for key, value in options.items() if isinstance(value, str) and value in bundled}
    return config


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hub")


def that_trains(file: Path) -> Any:
    marks = [pytest.mark.extras("torchao")] if "quantise: int8" in file.read_text() else []
    return pytest.param(file, id=file.stem, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("file", [that_trains(file) for file in EXPERIMENTS])
def test_every_experiment_trains(file, hub, tmp_path, monkeypatch, capsys):
    """Two updates as written; of full-size experiments with tiny random weights of their classes and small batches."""
    monkeypatch.chdir(ROOT)
    config = read_config(file)
    if "miniature" not in file.stem:
        config = with_stand_ins(config, hub)
    experiment = tmp_path / file.name
    experiment.write_text(yaml.safe_dump(config))
    options = ["--run.root", str(tmp_path / "runs"), "--run.name", "two_updates", "--run.experiment", file.stem]
    if "miniature" not in file.stem:
        options += ["--data.init_args.batch_size", "2", "--trainer.accumulate_grad_batches", "2"]
    main(["fit", "--config", str(experiment), "--trainer.max_steps", "2", "--trainer.accelerator", "cpu", *options])
    run = tmp_path / "runs" / file.stem / "two_updates"
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    weights = checkpoint["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    zero_at_first = [
        tensor for key, tensor in weights.items() if "lora_B" in key or key.split(".")[-2:] == ["out", "weight"]
    ]
    assert any(tensor.any() for tensor in zero_at_first)


@pytest.mark.slow
def test_an_experiment_with_verifiers(hub, tmp_path, monkeypatch):
    """Each is logged at every validation, the frozen generator's score too, and one of them chooses the checkpoint."""
    monkeypatch.chdir(ROOT)
    experiment = tmp_path / "verified.yaml"
    names = ("sdturbo_imagereward.yaml", "shared/rewards/verifiers.yaml")
    experiment.write_text(yaml.safe_dump({EXTENDS: [str(ROOT / "experiments" / name) for name in names]}))
    experiment.write_text(yaml.safe_dump(with_stand_ins(read_config(experiment), hub)))
    options = {"max_steps": 2, "accumulate_grad_batches": 1, "val_check_interval": 1, "limit_val_batches": 1}
    options = {f"trainer.{name}": value for name, value in options.items()} | {"trainer.accelerator": "cpu"}
    options |= {"data.init_args.batch_size": 2, "data.init_args.eval_batch_size": 2}
    options |= {"run.root": tmp_path / "runs", "run.name": "verified", "run.experiment": "verified"}
    main(["fit", "--config", str(experiment), *(f"--{name}={value}" for name, value in options.items())])

    run = tmp_path / "runs" / "verified" / "verified"
    events = EventAccumulator(str(next(run.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    logged = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for name in ("clip_vit_l", "vqa_score", "hpsv3", "unified_reward"):
        for prefix in ("val/", "val/base_"):
            scores = logged[f"{prefix}held_out_{name}"]
            assert len(scores) == 2 and torch.tensor(scores).isfinite().all()
    assert logged["val/held_out_hpsv3"] != logged["val/base_held_out_hpsv3"]
    assert {tag for tag in logged if "hpsv3" in tag} == {"val/held_out_hpsv3", "val/base_held_out_hpsv3"}
    states = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]
    (best,) = [state for name, state in states.items() if "'monitor': 'val/held_out_vqa_score'" in name]
    assert float(best["best_model_score"]) == pytest.approx(max(logged["val/held_out_vqa_score"]))


@pytest.mark.slow
def test_an_experiment_with_suites(hub, tmp_path, monkeypatch):
    """The sets of shared/suites.yaml in their formats, three prompts each, after a training of one update."""
    monkeypatch.chdir(ROOT)
    sets = {
        "drawbench": ("drawbench.csv", 'Prompts,Category\r\nA red car.,Colors\r\n"One, two",Counting\r\nA dog.,Colors'),
        "partiprompts": ("parti.tsv", 'Prompt\tCategory\tNote\n"G I"\tArts\t\na fox\tAnimals\tx\na hen\tAnimals\t\n'),
        "hpdv2": ("anime.json", '["a girl", "a boy", "a house"]'),
        "geneval": ("geneval.jsonl", "".join(f'{{"prompt": "a photo of {i}", "tag": "colors"}}\n' for i in range(3))),
    }
    experiment = tmp_path / "suites.yaml"
    names = ("sdturbo_imagereward.yaml", "shared/suites.yaml")
    experiment.write_text(yaml.safe_dump({EXTENDS: [str(ROOT / "experiments" / name) for name in names]}))
    config = with_stand_ins(read_config(experiment), hub)
    suites = [*suites_in(config["callbacks"])]
    assert {suite["name"] for suite in suites} == sets.keys()
    for suite in suites:
        file, content = sets[suite["prompts"]]
        (tmp_path / file).write_text(content)
        suite["prompts"] = str(tmp_path / file)
    experiment.write_text(yaml.safe_dump(config))
    options = {"max_steps": 1, "accumulate_grad_batches": 1, "val_check_interval": 1, "limit_val_batches": 1}
    options = {f"trainer.{name}": value for name, value in options.items()} | {"trainer.accelerator": "cpu"}
    options |= {"trainer.limit_test_batches": 1, "data.init_args.batch_size": 2, "model.images_per_prompt": 1}
    options |= {"run.root": tmp_path / "runs", "run.name": "one", "run.experiment": "suites"}
    main(["train", "--config", str(experiment), *(f"--{name}={value}" for name, value in options.items())])

    found = {}
    for name in sets:
        results = json.loads((tmp_path / "runs" / "suites" / "one" / f"results_{name}.json").read_text())
        found[name] = [*results["methods"]["hypernetwork"]["categories"]]
        assert results["suite"]["measured"] == 3
        assert results["methods"]["hypernetwork"]["images"] == (12 if name == "geneval" else 3)
    anime = str(tmp_path / "anime.json")
    expected = {"drawbench": ["Colors", "Counting"], "partiprompts": ["Arts", "Animals"]}
    assert found == expected | {"hpdv2": [anime], "geneval": ["colors"]}


def test_the_published_settings():
    """Prompts an update, learning rates and ranks of arXiv 2508.09968 and its code."""
    expected = {"sdturbo_preferences": 48, "sana_preferences": 54, "flux_preferences": 28, "sana_redness": 3}
    for stem, prompts in expected.items():
        config = read_config(ROOT / "experiments" / f"{stem}.yaml")
        data, trainer = config["data"]["init_args"], config["trainer"]
        assert data["batch_size"] * trainer["accumulate_grad_batches"] == prompts
        assert trainer["gradient_clip_val"] == 1.0 and config["vars"]["rank"] == 128
        epochs = trainer["max_steps"] * prompts / (30 if stem == "sana_redness" else 70_000)
        assert epochs == pytest.approx(200 if stem == "sana_redness" else 30, rel=0.01)


def test_optimizers_are_the_published_ones():
    """With torch's fused kernels, which is another way to the same numbers."""
    flux = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 2e-5, "weight_decay": 1e-4, "fused": True}}
    options = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.0, "fused": True}
    sana = {"class_path": "torch.optim.SGD", "init_args": options}
    for stem, expected in (("flux_preferences", flux), ("sana_preferences", sana)):
        assert read_config(ROOT / "experiments" / f"{stem}.yaml")["model"]["optimizer"] == expected


def test_sd_turbo_says_at_once_what_to_download(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as caught:
        main(["train", "--config", "experiments/sdturbo_imagereward.yaml", "--run.root", str(tmp_path / "runs")])
    assert caught.value.code == 2
    written = capsys.readouterr()
    assert "Cannot load 'stabilityai/sd-turbo'" in written.err
    # All at once: the generator's and those of both rewards, ImageReward's tokenizer among them.
    commands = [line.split("hf download ")[1] for line in written.err.splitlines() if "hf download " in line]
    names = ["stabilityai/sd-turbo", "zai-org/ImageReward", "google-bert/bert-base-uncased"]
    names.append("openai/clip-vit-large-patch14")
    assert [command.split()[0] for command in commands] == names
    assert '--include "*.fp16*"' in commands[0]
    assert "Traceback" not in written.err
    assert not (tmp_path / "runs").exists()
