"""`hn compare` of several trained networks, end to end on tiny checkpoints."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace

from hn.cli import main
from hn.cli.compare import file_of_experiment, find_compared, shared_options, training_commands
from hn.cli.starting_point import StartingPoint
from hn.hypernets import LoraFinetune, LoraHypernet, Trainable
from hn.hypernets.conv import ConvHypernet
from hn.training.run_directory import RunDirectory

START = "comparison.searches.from_compact.init_args.start"


@pytest.fixture
def save(generator):
    """Writes trained weights, as it were, to a folder."""

    def write(network: Trainable, folder: Path, updates: int | None = None) -> Path:
        network.build(generator)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += 0.05
        network.save_pretrained(folder)
        if updates is not None:
            (folder.parent / "results.json").write_text(json.dumps({"training": {"steps": updates}}))
        return folder

    return write


@pytest.fixture
def runs(experiment) -> Path:
    """The directory of all experiments' runs."""
    return experiment.parent / "runs"


@pytest.fixture
def compare(experiment, runs, save):
    """Runs `hn compare` on the tiny experiment with trained networks; `compare.words` are its words."""
    save(LoraHypernet(rank=2), runs / "tiny" / "one" / "hypernet", updates=2)
    content = yaml.safe_load(experiment.read_text())
    content["comparison"] = {"finetune": None, "steps": [1, 2], "gallery": 2, "searches": {
        **dict.fromkeys(("best_of_8", "best_of_50", "zero_order_17", "reno_50", "hypernetwork_reno_5")),
        "from_compact": {"class_path": "hn.search.WarmStart", "init_args": {
            "search": {"class_path": "hn.search.BestOfN", "init_args": {"n": 2}}, "start": "compact"}},
    }}  # fmt: skip
    experiment.write_text(yaml.safe_dump(content))
    words = ["compare", "--config", str(experiment), "--data.init_args.limit_test", "2", "--callbacks.images", "null"]

    def run(*options: str, name: str = "x") -> Path:
        main([*words, "--run.name", name, *options])
        return runs / "tiny" / f"compare_{name}"

    run.words = words
    return run


@pytest.fixture
def compact(save, runs) -> Path:
    """Weights of a small network of another class, of a run of 7 updates."""
    return save(ConvHypernet(width=8, blocks=1, heads=2, text_width=8), runs / "other" / "z" / "hypernet", updates=7)


def written(folder: Path) -> dict[str, int]:
    """When the records and images of a comparison were written."""
    files = [*folder.glob("records/*.safetensors"), *folder.glob("gallery/*/*.png")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_trained_networks_stand_side_by_side(compare, compact, save, runs, experiment):
    (experiment.parent / "tiny_rank.yaml").write_text("extends: tiny.yaml\n")
    ranked = save(LoraHypernet(rank=3), runs / "tiny_rank" / "one" / "hypernet", updates=9)
    trained = {"compact": str(compact), "ranked": str(experiment.parent / "tiny_rank.yaml"), "gone": None}
    content = yaml.safe_load(experiment.read_text())
    content["comparison"]["trained"] = trained
    experiment.write_text(yaml.safe_dump(content))
    folder = compare()
    results = json.loads((folder / "results.json").read_text())
    both = [name for each in ("base", "hypernetwork", "compact", "ranked") for name in (each, f"{each}_2_steps")]
    assert list(results["methods"]) == [*both, "from_compact"]
    assert [method["nfe"] for method in results["methods"].values()] == [1, 2, 2, 3, 1, 2, 2, 3, 2]
    own = str(runs / "tiny" / "one" / "hypernet")
    assert results["weights"] == {"hypernetwork": own, "compact": str(compact), "ranked": str(ranked)}
    assert results["updates"] == {"hypernetwork": 2, "compact": 7, "ranked": 9}
    assert results["curves"].keys() == results["updates"].keys()
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["method"] for row in rows] == [*both, "from_compact"]
    assert {path.parent.name for path in folder.glob("gallery/*/*.png")} == {*both, "from_compact"}
    page = (folder / "report.html").read_text()
    assert f"<dt>Weights of compact</dt><dd>{compact} (7 updates)</dd>" in page
    assert 'data-method="ranked_2_steps"' in page
    saved = yaml.safe_load((folder / "compare_config.yaml").read_text())
    assert saved["comparison"]["trained"] == {"compact": str(compact), "ranked": str(ranked), "gone": None}

    # one that is added later, a fine-tune this time, is measured alone
    before = written(folder)
    tuned = save(LoraFinetune(rank=2), runs / "tuned" / "one" / "hypernet")
    compare("--comparison.trained.tuned", str(tuned), "--comparison.steps", "null")
    after = written(folder)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[1].split(".")[0] for name in after.keys() - before.keys()} == {"tuned"}
    more = json.loads((folder / "results.json").read_text())
    assert list(more["methods"]) == ["base", "hypernetwork", "compact", "ranked", "tuned", "from_compact"]
    assert more["methods"]["tuned"]["kl_nats"] is None and more["updates"]["tuned"] is None
    assert more["methods"]["from_compact"] == results["methods"]["from_compact"]


@pytest.mark.slow
def test_changed_weights_are_not_mixed(compare, compact, refuse):
    options = ["--comparison.trained.compact", str(compact), "--comparison.steps", "null"]
    compare(*options)
    weights = compact / "hypernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    message = refuse(*compare.words, "--run.name", "x", *options)
    assert "compact.weights.hypernet.safetensors was" in message and "remove compact.record.safetensors" in message


@pytest.mark.slow
def test_a_missing_network_is_trained_as_its_own_experiment_says(compare, experiment, runs, capsys):
    content = {"extends": "tiny.yaml", "trainer": {"max_steps": 1, "val_check_interval": 1}, "vars": {"rank": 3}}
    content["run"] = {"root": str(experiment.parent / "elsewhere")}
    file = experiment.parent / "tiny_small.yaml"
    file.write_text(yaml.safe_dump(content))
    options = ["--comparison.trained", json.dumps({"compact": str(file), "again": str(file)}), "--trainer.max_steps=2"]
    folder = compare(*options, "--model.images_per_prompt", "1", "--comparison.steps", "null")
    assert capsys.readouterr().out.count("has no trained run yet") == 1
    (weights,) = (runs / "tiny_small").glob("*/hypernet")
    assert json.loads((weights / "adapter_config.json").read_text())["r"] == 3
    saved = yaml.safe_load((weights.parent / "config.yaml").read_text())
    assert (saved["trainer"]["max_steps"], saved["model"]["images_per_prompt"]) == (1, 2)
    results = json.loads((folder / "results.json").read_text())
    assert results["updates"] == {"hypernetwork": 2, "compact": 1, "again": 1}
    assert results["methods"]["compact"]["reward"] == results["methods"]["again"]["reward"]
    assert not (experiment.parent / "elsewhere").exists()


@pytest.fixture
def refused(compare, compact, refuse, monkeypatch):
    """The message with which a comparison is refused, before the generator's weights are read."""

    def message(*options: str) -> str:
        monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
        return refuse(*compare.words, "--comparison.trained.compact", str(compact), *options)

    return message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--comparison.trained.from_compact", "a"], "has 'from_compact', which cannot name a search"),
        (["--comparison.trained.x", "data/nothing"], "Cannot load 'data/nothing': there is no such folder"),
        (["--comparison.trained.x", "runs/a/b/hypernet"], "There is no folder runs/a/b/hypernet"),
        (["--comparison.trained.x", "nothing.yaml"], "There is no configuration file nothing.yaml"),
        (["--comparison.trained.x", "minature"], "There is no experiment 'minature'. Did you mean miniature"),
        (["--comparison.trained.compact", "null"], "starts from 'compact', which is no trained network"),
    ],
)
def test_a_slip_is_refused(refused, options, message):
    assert message in refused(*options)


def test_an_experiment_is_not_compared_with_itself(refused, experiment):
    message = refused("--comparison.trained.x", str(experiment))
    assert "tiny.yaml, the experiment itself, whose row is hypernetwork" in message


def test_a_run_in_the_place_of_its_weights_is_told_apart(refused, compact):
    assert f"Did you mean {compact}?" in refused("--comparison.trained.x", str(compact.parent))


def test_a_fine_tune_and_a_hypernetwork_do_not_change_places(refused, save, runs, tmp_path):
    tuned = save(LoraFinetune(rank=2), tmp_path / "tuned")
    message = refused(f"--{START}", "tuned", "--comparison.trained.tuned", str(tuned))
    assert "The search from_compact starts from tuned, a fine-tune" in message
    message = refused("--comparison.finetune", str(runs / "tiny" / "one" / "hypernet"))
    assert "The comparison's finetune cannot be loaded" in message and "a noise hypernetwork" in message


def test_a_network_of_another_generator_is_refused(refused, compact, tmp_path):
    config = json.loads((compact / "hypernet_config.json").read_text())
    config["generator"]["backbone"] = "FluxTransformer2DModel"
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "hypernet_config.json").write_text(json.dumps(config))
    message = refused("--comparison.trained.x", str(tmp_path / "net"))
    assert "The comparison's x cannot be loaded: This hypernetwork is for a FluxTransformer2DModel" in message


@pytest.mark.slow
def test_an_experiment_to_train_is_looked_at_first(refused, experiment, tmp_path, tiny_pipeline_folder):
    file = tmp_path / "tiny_other.yaml"
    file.write_text(yaml.safe_dump({"extends": "tiny.yaml", "model": {"hypernet": {"init_args": {"rank": 0}}}}))
    message = refused("--comparison.trained.x", str(file))
    assert "tiny_other.yaml, which would be trained for the comparison's x: " in message
    assert "rank must be at least 1, not 0" in message
    change = {"generator": {"init_args": {"pretrained": str(tiny_pipeline_folder)}}}
    file.write_text(yaml.safe_dump({"extends": "tiny.yaml", "model": change}))
    message = refused("--comparison.trained.x", str(file))
    assert f"x would be trained on another generator: name is {tiny_pipeline_folder} there" in message


def test_a_comparison_is_of_the_run_that_is_named(tmp_path):
    """A fine-tune of the same budget is taken, though another one is newer."""
    for run, steps in (("tiny/first", 2), ("tiny/second", 2), ("tuned/first", 2), ("tuned/second", 3)):
        (tmp_path / run / "hypernet").mkdir(parents=True)
        (tmp_path / run / "results.json").write_text(json.dumps({"training": {"steps": steps}}))
    (tmp_path / "tiny" / "untrained").mkdir()
    (tmp_path / "tuned.yaml").write_text("{}")

    def found(name):
        comparison = Namespace(finetune=str(tmp_path / "tuned.yaml"), trained={})
        config = Namespace(hypernet=None, finetune=None, comparison=comparison, trust_remote_code=[])
        config.trainer = Namespace(max_steps=2)
        assert not find_compared(config, RunDirectory(str(tmp_path), "tiny", name), "tiny.yaml").untrained
        assert config.comparison.finetune == str(tmp_path / "tuned" / "first" / "hypernet")
        return Path(config.hypernet).parent.name

    assert [found("first"), found("second"), found("of another name")] == ["first", "second", "second"]
    with pytest.raises(FileNotFoundError, match="untrained has no trained weights.*trained runs are: first, second"):
        found("untrained")


def test_experiments_and_weights_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "miniature").mkdir()
    assert file_of_experiment("miniature") is None
    assert file_of_experiment("./miniature") is None
    assert file_of_experiment("owner/name") is None
    assert file_of_experiment("miniature_long").endswith("experiments/miniature_long.yaml")
    assert file_of_experiment("a/b.yaml") == "a/b.yaml"


def test_another_experiment_takes_what_holds_for_all():
    words = ["--config", "x.yaml", "--model.regulariser=sum", "--trainer.devices", "1", "--vars.rank", "-3", "-c", "y"]
    words += ["--model.generator.init_args.dtype=bfloat16", "--trainer.max_steps", "2", "--trainer.accelerator=cpu"]
    shared = ["--trainer.devices", "1", "--model.generator.init_args.dtype=bfloat16", "--trainer.accelerator=cpu"]
    assert shared_options(words) == shared
    config = Namespace(trainer=Namespace(devices=1, num_nodes=1))
    runs = {name: (RunDirectory("runs", name), f"{name}.yaml") for name in ("finetune", "other")}
    commands = training_commands(config, StartingPoint(untrained=runs), words)
    ends = ["--run.root", "runs", "--trainer.devices=1", "--trainer.num_nodes=1"]
    expected = ["train", "--config", "other.yaml", *shared, "--run.experiment", "other", *ends]
    assert commands["other"] == expected
    assert {"--vars.rank", "--model.regulariser=sum", "--trainer.max_steps"} <= {*commands["finetune"]}
