"""The command line, end to end on tiny checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import hn
from hn.cli import main
from hn.cli.parsing import expand_configs, without_options
from hn.report.result_files import read_images_csv
from hn.utils.lock import locked

METHOD = {
    "reward", "rewards", "held_out_reward", "held_out_rewards", "geneval", "seconds_per_image", "nfe", "kl_nats",
    "penalty_per_dimension", "cmmd", "diversity", "images",
}  # fmt: skip
INTERVALS = {"reward_delta_ci95", "held_out_reward_delta_ci95", "geneval_delta_ci95"}
DETAILS = {
    "peak_memory_bytes", "reward_ci95", "held_out_reward_ci95", "geneval_ci95", "geneval_tags_ci95",
    "rewards_ci95", "held_out_rewards_ci95",
    "categories",
}  # fmt: skip
DETAILS_BESIDE_THE_BASE = {"rewards_delta_ci95", "held_out_rewards_delta_ci95"}


@pytest.fixture
def run(experiment, capsys):
    """Runs a command on the tiny experiment and returns what it printed; `.directory` gives a run's directory."""

    def call(name: str, *options: str) -> str:
        main([name, "--config", str(experiment), *options])
        return capsys.readouterr().out

    return call


@pytest.fixture
def runs(experiment) -> Path:
    """The directory of the tiny experiment's runs."""
    return experiment.parent / "runs" / "tiny"


@pytest.fixture
def resolved(experiment, capsys):
    """The configuration that a command would run with."""

    def read(name: str, *options: str, config: Path = experiment) -> dict:
        with pytest.raises(SystemExit) as caught:
            main([name, "--config", str(config), *options, "--print_config"])
        assert caught.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    return read


@pytest.fixture
def refused(refuse):
    """The message with which a command is refused, after "error: "."""

    def message(*arguments: str) -> str:
        shown = refuse(*arguments).split("error: ")[1]
        assert shown.count("--help") <= 1
        assert len(shown.splitlines()) < 13
        return shown

    return message


def make_weights(make_module, folder: Path) -> Path:
    """Trained weights, as it were, of a run."""
    module = make_module()
    with torch.no_grad():
        for parameter in module.hypernet.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    module.hypernet.save_pretrained(folder)
    return folder


def test_train_leaves_a_complete_run_directory(finished_run, resolved):
    folder, printed = finished_run
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.yaml", "results.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "images/step_000002.png",
        "images/final.png", "hypernet/hypernet_config.json", "hypernet/adapter_model.safetensors",
    } <= names  # fmt: skip
    assert any("tfevents" in name for name in names)

    results = json.loads((folder / "results.json").read_text())
    assert list(results) == ["experiment", "environment", "training", "reward_weights", "methods"]
    assert results["experiment"] == "tiny"
    assert results["environment"]["packages"]["hn"] == hn.__version__
    training = results["training"]
    assert (training["steps"], training["best_step"], training["best_checkpoint"]) == (2, 2, "best.ckpt")
    assert training["seconds"] > 0
    assert list(results["methods"]) == ["base", "hypernetwork"]
    assert results["methods"]["base"].keys() == METHOD
    assert results["methods"]["hypernetwork"].keys() == METHOD | INTERVALS
    assert results["methods"]["hypernetwork"]["images"] == 15
    assert results["methods"]["base"]["geneval"].keys() == {"overall", "colors", "counting"}
    assert results["methods"]["hypernetwork"]["kl_nats"] > 0

    assert "tiny: 15 images a method" in printed
    for path in (folder / "results.json", folder / "images" / "final.png"):
        assert str(path) in printed
    assert f"tensorboard  {folder}" in printed

    # the saved configuration is complete: it gives the same one again, and stays with the experiment
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["images_per_prompt"] == 3
    assert saved["run"] == {"root": str(folder.parents[1]), "experiment": "tiny", "name": "one", "pretrained": None}
    assert (saved["trainer"]["default_root_dir"], saved["trainer"]["logger"], saved["ckpt_path"]) == (None, None, None)
    assert "seed" not in saved["model"]
    assert resolved("train", config=folder / "config.yaml") == saved


def test_a_run_in_use_is_refused_and_one_without_a_name_gets_another(refused, experiment, runs, monkeypatch):
    monkeypatch.setattr("hn.cli.experiment.timestamp", lambda: "now")
    monkeypatch.setattr("hn.cli.experiment.HnCLI.instantiate_classes", lambda self: named.append(self.run_name))
    monkeypatch.setattr("hn.cli.experiment.HnCLI._run", lambda self: None)
    named: list[str] = []
    with locked(runs / "now", is_folder=True):
        message = refused("train", "--config", str(experiment), "--run.name", "now")
        assert f"{runs / 'now'} is in use by process {os.getpid()} on" in message
        main(["train", "--config", str(experiment)])
    main(["train", "--config", str(experiment)])
    assert named == ["now_2", "now"]
    assert not runs.exists()  # nothing was written


@pytest.mark.slow
def test_the_best_weights_are_tested_and_kept(run, runs):
    # The KL grows all the time, so that its least is at the first validation.
    best = ["--callbacks.best.init_args.monitor", "val/kl_nats", "--callbacks.best.init_args.mode", "min"]
    run("train", "--run.name", "one", "--trainer.max_steps", "4", "--callbacks.images", "null", *best)
    results = json.loads((runs / "one" / "results.json").read_text())
    assert (results["training"]["steps"], results["training"]["best_step"]) == (4, 2)
    states = [
        torch.load(runs / "one" / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "last")
    ]
    kept = load_file(runs / "one" / "hypernet" / "adapter_model.safetensors")
    name = "base_model.model.conv_out.lora_B.weight"
    found = [state["backbone.conv_out.lora_B.default.weight"] for state in states]
    assert torch.equal(kept[name], found[0])
    assert not torch.equal(kept[name], found[1])


def test_a_run_is_not_written_over(run_of_experiment, refused, experiment):
    before = (run_of_experiment / "checkpoints" / "last.ckpt").read_bytes()
    message = refused("fit", "--config", str(experiment), "--run.name", "one")
    assert "tiny/one holds a run already; continue it with --ckpt_path last" in message
    assert (run_of_experiment / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.slow
def test_the_last_weights_are_tested_where_no_best_is_chosen(run, runs):
    run("train", "--run.name", "one", "--callbacks.best", "null", "--callbacks.images", "null")
    training = json.loads((runs / "one" / "results.json").read_text())["training"]
    assert (training["best_step"], training["best_checkpoint"]) == (None, None)
    assert not (runs / "one" / "checkpoints" / "best.ckpt").exists()


@pytest.mark.slow
def test_compare_trains_what_is_missing_and_measures_everything(run, runs, experiment):
    finetune = experiment.parent / "tiny_finetune.yaml"
    network = {"class_path": "hn.hypernets.finetune.LoraFinetune", "init_args": {"rank": "${vars.rank}"}}
    finetune.write_text(yaml.safe_dump({"extends": "tiny.yaml", "model": {"hypernet": network}}))
    tiny = yaml.safe_load(experiment.read_text())
    tiny["comparison"]["searches"] |= {
        "zero_order_17": {"init_args": {"iterations": 1, "neighbours": 3}},
        "hypernetwork_reno_5": {"init_args": {"search": {"init_args": {"iterations": 4}}}},
    }
    experiment.write_text(yaml.safe_dump(tiny))
    training = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1"]
    options = ["--comparison.finetune", str(finetune), *training, "--vars.rank", "3"]
    more = ["--comparison.steps", "[1,2]", "--comparison.searches.reno_50.init_args.iterations", "3"]
    printed = run("compare", *options, "--run.name", "x", *more)
    for kind, name in (("tiny", "hypernetwork"), ("tiny_finetune", "finetune")):
        assert f"{kind} has no trained run yet" in printed
        (trained,) = (runs.parent / kind).glob("*/hypernet")
        results = json.loads((trained.parent / "results.json").read_text())
        assert list(results["methods"]) == ["base", name]
        assert results["training"]["steps"] == 1
        adapter = json.loads((trained / "adapter_config.json").read_text())
        assert adapter["r"] == 3

    results = json.loads((runs / "compare_x" / "results.json").read_text())
    methods = results["methods"]
    searches = ["best_of_8", "zero_order_17", "reno_50", "hypernetwork_reno_5"]
    trained = ["base", "base_2_steps", "hypernetwork", "hypernetwork_2_steps", "finetune", "finetune_2_steps"]
    assert list(methods) == [*trained, *searches]
    assert [method["nfe"] for method in methods.values()] == [1, 2, 2, 3, 1, 2, 3, 4, 3, 5]
    for name, method in methods.items():
        beside_the_base = set() if name == "base" else INTERVALS | DETAILS_BESIDE_THE_BASE
        assert method.keys() == METHOD | DETAILS | beside_the_base
        assert len(list((runs / "compare_x" / "gallery" / name).glob("*.png"))) == 5
    assert methods["finetune"]["kl_nats"] is None
    for name in ("best_of_8", "zero_order_17", "reno_50"):
        assert methods[name]["reward"] > methods["base"]["reward"]
    assert methods["hypernetwork_reno_5"]["reward"] > methods["hypernetwork"]["reward"]
    assert results["weights"]["hypernetwork"] in [str(path) for path in runs.glob("*/hypernet")]
    assert Image.open(runs / "compare_x" / "images" / "comparison.png").height > 5 * 96
    assert Image.open(runs / "compare_x" / "images" / "curves.png").width > 1000
    assert "reno_50" in printed
    assert results["reward_weights"] == {"clip": 1.0, "redness": 0.0}
    assert results["grouped_by"] == ["tag"] and [*methods["reno_50"]["categories"]] == ["colors", "counting"]
    assert len(results["curves"]["finetune"]["val/reward"]["value"]) == 1
    assert len(read_images_csv(runs / "compare_x" / "images.csv")) == 10 * 10
    traces = json.loads((runs / "compare_x" / "timing.json").read_text())["traces"]
    assert [point["nfe"] for point in traces["reno_50"]] == [1, 2, 3]
    assert traces["reno_50"][-1]["reward"] == pytest.approx(methods["reno_50"]["reward"])
    assert f"report       {runs / 'compare_x' / 'report.html'}" in printed
    assert (runs / "compare_x" / "compare_config.yaml").exists()

    # now there is something to compare
    assert "no trained run yet" not in run("compare", *options, "--comparison.searches", "{}")


@pytest.mark.slow
def test_generate_takes_one_prompt_or_several(run, runs, make_module):
    make_weights(make_module, runs / "one" / "hypernet")
    printed = run("generate", "--prompt", "a red ball", "--run.name", "one", "--upscale", "2")
    folder = runs / "generate_one"
    assert str(runs / "one" / "hypernet") in printed
    assert str(folder / "overview.png") in printed
    metadata = json.loads((folder / "metadata.json").read_text())
    assert (metadata["hypernet"], metadata["seed"]) == (str(runs / "one" / "hypernet"), 0)
    entries = metadata["images"]
    assert [entry["file"] for entry in entries] == [
        f"{number:04d}_{method}.png" for method in ("base", "hypernetwork") for number in range(4)
    ]
    assert {entry["prompt"] for entry in entries} == {"a red ball"}
    assert {(entry["method"], entry["nfe"]) for entry in entries} == {("base", 1), ("hypernetwork", 2)}
    pixels = [(folder / entry["file"]).read_bytes() for entry in entries]
    assert len(set(pixels)) == 8
    assert Image.open(folder / "0000_base.png").size == (32, 32)

    make_weights(make_module, runs / "two" / "hypernet")
    options = ["--run.name", "two", "--count", "2", "--steps", "2", "--seed", "1"]
    run("generate", "--prompt", '["a red ball", "two cube"]', *options)
    entries = json.loads((runs / "generate_two" / "metadata.json").read_text())["images"]
    assert [entry["prompt"] for entry in entries] == ["a red ball", "a red ball", "two cube", "two cube"] * 2
    assert {entry["nfe"] for entry in entries} == {2, 3}
    assert (runs / "generate_two" / "0000_base.png").read_bytes() not in pixels


@pytest.mark.slow
def test_the_weights_that_come_with_an_experiment_are_used_until_it_has_a_run(run, runs, make_module, tmp_path):
    folder = make_weights(make_module, tmp_path / "pretrained")
    line = f"weights      {folder} (run.pretrained: this experiment has no run yet)\n"
    assert line in run("generate", "--prompt", "a ball", "--run.pretrained", str(folder))
    assert line in run("validate", "--run.pretrained", str(folder))
    other = make_weights(make_module, tmp_path / "other")
    assert f"weights      {other}\n" in run("generate", "--prompt", "a ball", "--hypernet", str(other))


@pytest.mark.slow
def test_validate_test_and_predict_use_the_trained_weights(run, runs, make_module, capsys):
    make_weights(make_module, runs / "one" / "hypernet")
    for name, prefix in (("validate", "val"), ("test", "test")):
        printed = run(name, "--run.name", "one")
        rows = [line.split("│") for line in printed.splitlines() if "│" in line]
        numbers = {row[1].strip(): row[2].strip() for row in rows}
        assert float(numbers[f"{prefix}/kl_nats"]) > 1
        assert float(numbers[f"{prefix}/base_kl_nats"]) == 0
        assert f"weights      {runs / 'one' / 'hypernet'}\n" in printed
        assert (runs / "one" / f"{name}_config.yaml").exists()
    printed = run("predict", "--run.name", "one", "--data.init_args.limit_predict", "1")
    assert f"images       {runs / 'one' / 'images'}" in printed
    assert len(list((runs / "one" / "images" / "00000" / "samples").iterdir())) == 2


def test_every_command_prints_its_configuration(resolved):
    for name in ("fit", "validate", "test", "predict", "train", "compare", "generate"):
        options = ["--prompt", "a ball"] if name == "generate" else []
        config = resolved(name, *options)
        assert config["model"]["hypernet"]["init_args"]["rank"] == 2
        assert "extends" not in config


def test_options_of_the_command_line_reach_the_configuration(resolved):
    options = {
        "model.regulariser": "sum",
        "model.reward_weight": 3.5,
        "model.noise_type": "batch",
        "model.warmup_steps": 7,
        "model.decay_steps": 9,
        "model.optimizer.init_args.lr": 0.25,
        "model.reward.init_args.weights.redness": 0.5,
        "model.reward.init_args.rewards.clip.init_args.scale": "percent",
        "trainer.gradient_clip_val": 0.125,
        "callbacks.images.init_args.upscale": 5,
        "comparison.searches.reno_50.init_args.iterations": 9,
        "seed_everything": 11,
    }
    config = resolved("train", *(word for name, value in options.items() for word in (f"--{name}", str(value))))
    for name, value in options.items():
        found = config
        for key in name.split("."):
            found = found[key]
        assert found == value, name
    assert config["model"]["reward"]["init_args"]["weights"]["clip"] == 1.0


def test_the_configuration_reaches_the_run(run, runs, monkeypatch):
    """What cannot be seen in a printed configuration: that it is used."""
    seen = {}

    def record(self, model, datamodule, **options):
        group = model.configure_optimizers()["optimizer"].param_groups[0]
        seen.update(lr=group["initial_lr"], module=model, clip=self.gradient_clip_val, max_steps=self.max_steps)
        seen["data_seed"] = datamodule.seed

    monkeypatch.setattr("hn.training.trainer.ExperimentTrainer.fit", record)
    run("fit", "--model.optimizer.init_args.lr", "0.25", "--trainer.gradient_clip_val", "0.125", "--model.regulariser",
        "sum", "--model.reward_weight", "3.5", "--model.noise_type", "batch", "--seed_everything", "11",
        "--model.reward.init_args.weights.redness", "0.5")  # fmt: skip
    module = seen["module"]
    assert (seen["lr"], seen["clip"], seen["max_steps"]) == (0.25, 0.125, 2)
    assert (module.regulariser, module.reward_weight, module.draw_noise.noise_type) == ("sum", 3.5, "batch")
    assert (module.seed, seen["data_seed"], module.evaluation_seed) == (11, 11, 0)
    assert module.reward.weights == {"clip": 1.0, "redness": 0.5}
    assert module.warmup_steps == 2


def test_an_override_reaches_every_place_that_refers_to_the_value(resolved, experiment):
    child = experiment.parent / "child.yaml"
    child.write_text(
        yaml.safe_dump(
            {
                "extends": "tiny.yaml",
                "vars": {"place": "here"},
                "model": {"warmup_steps": "${trainer.max_steps}"},
                "callbacks": {"last": {"init_args": {"every_n_steps": "${trainer.max_steps}"}}},
                "comparison": {"searches": {"best_of_8": {"init_args": {"n": "${model.images_per_prompt}"}}}},
                "run": {"root": "${vars.place}/runs"},
            }
        )
    )
    for options, expected in (
        ([], (2, 2, 2, "here/runs", 2)),
        (["--trainer.max_steps", "9", "--model.images_per_prompt", "5"], (9, 9, 5, "here/runs", 2)),
        (["--vars.place", "there", "--vars.rank", "7"], (2, 2, 2, "there/runs", 7)),
    ):
        config = resolved("train", *options, config=child)
        assert (
            config["model"]["warmup_steps"],
            config["callbacks"]["last"]["init_args"]["every_n_steps"],
            config["comparison"]["searches"]["best_of_8"]["init_args"]["n"],
            config["run"]["root"],
            config["model"]["hypernet"]["init_args"]["rank"],
        ) == expected
        assert config["data"]["init_args"]["predict"] == config["data"]["init_args"]["test"]


@pytest.mark.slow
def test_python_m_hn_is_the_same(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "hn", "train", "--config", str(tmp_path / "nothing.yaml")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr == f"error: There is no configuration file {tmp_path}/nothing.yaml.\n"


@pytest.mark.slow
def test_messages_of_libraries_come_once_or_not_at_all(experiment):
    command = [sys.executable, "-m", "hn", "fit", "--config", str(experiment), "--trainer.max_steps=1"]
    found = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    said = found.stdout + found.stderr
    assert found.returncode == 0 and said.count("GPU available") == 1
    assert not any(word in said for word in ("INFO", "litlogger", "TPU", "weights_only", "Seed set to"))


def test_the_help_of_a_command_lists_its_options(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: hn train --config NAME|FILE.yaml [--OPTION VALUE ...]\n")
    assert "--model.reward_weight" in shown


def test_an_unknown_experiment_lists_those_there_are(refused, experiment):
    message = refused("train", "--config", str(experiment.parent / "tinny.yaml"))
    assert "tinny.yaml" in message
    assert "has: tiny." in message
    assert "There is no configuration file" in refused("train", "--config")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--trainer.max_step", "4"], ["--trainer.max_step", "did you mean --trainer.max_steps?"]),
        (["--seed_everything", "-3"], ["seed_everything", "-3"]),
        (["--run.name", "a/b"], ["must be the name of one folder"]),
        (["--trainer.max_stepz", "4"], ["--trainer.max_stepz", "did you mean --trainer.max_steps?"]),
        (["--model.reward_wieght", "4"], ["did you mean --model.reward_weight?"]),
        (
            ["--model.hypernet.init_args.rnk", "4"],
            [
                "Option 'rnk' is not accepted",
                "init_args.rnk: did you mean --model.hypernet.init_args.rank?\n",
            ],
        ),
        (["--data.num_worker=1"], ["--data.num_worker: did you mean --data.num_workers?\n"]),
        (["--callbacks.images.prompt=a"], ["--callbacks.images.prompt: did you mean --callbacks.images.prompts?\n"]),
        (
            ["--model.reward.rewards.clip.dtyp", "float16"],
            ["--model.reward.rewards.clip.dtyp: did you mean --model.reward.rewards.clip.dtype?\n"],
        ),
        (["--model.regulariser", "median"], ["model.regulariser", "'mean', 'sum'", "median"]),
        (["--trainer.max_steps", "many"], ["trainer.max_steps", "many"]),
        (["--vars.rank", "${vars.rnk}"], ["cannot be resolved", "vars.rnk"]),
        (["--model.hypernet.class_path", "hn.hypernets.Lora"], ["no attribute 'Lora'"]),
        (["--vars.checkpoints", "data/miniature/nothing"], ["data/miniature/nothing", "make miniature"]),
        (["--model.generator.init_args.pretrained", "data/miniature/nothing"], ["`make miniature`"]),
        (["--model.hypernet.init_args.rank", "0"], ["rank must be at least 1, not 0"]),
        (["--model.images_per_prompt", "0"], ["images_per_prompt must be at least 1"]),
        (["--trainer.precision", "31"], ["31"]),
        (["--ckpt_path", "last"], ["There is no checkpoint", "--run.name"]),
        (["--ckpt_path", "nothing.ckpt"], ["There is no checkpoint nothing.ckpt"]),
        (["--callbacks.images.init_args.prompts", '["a red cow"]'], ["'cow'", "outside the generator's vocabulary"]),
        (["--data.init_args.train", "nothing.jsonl"], ["nothing.jsonl", "no such prompt file"]),
        (["--data.init_args.batch_size", "99"], ["do not fill one batch of 99"]),
    ],
)
def test_a_slip_gives_one_message(refused, experiment, runs, options, messages):
    message = refused("train", "--config", str(experiment), *options)
    for part in messages:
        assert part in message
    assert not list(runs.glob("*/checkpoints"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.hypernet.init_args.rank", "0"], "rank must be at least 1, not 0"),
        (["--model.hypernet.init_args.last_layer", "proj_out"], "UNet2DConditionModel has no layer 'proj_out'"),
        (["--model.hypernet.init_args.target_modules", "proj_oot"], "'proj_oot' fits no Linear or Conv2d of UNet2D"),
        (["--model.generator.init_args.height", "500"], "positive multiples of 8, not 500 x"),
        (["--model.generator.init_args.steps", "0"], "steps (0) must be at least 1"),
        (["--model.generator.init_args.family", "hn.generators.families.flux.Flux"], "The Flux family runs a FluxPip"),
    ],
)
def test_what_does_not_fit_the_generator_is_said_before_any_weights_are_loaded(
    refused, experiment, monkeypatch, options, message
):
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert message in refused("train", "--config", str(experiment), *options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("train", ["--model.images_per_prompt", "0"], "images_per_prompt must be at least 1"),
        ("validate", ["--model.score_batch_size", "0"], "score_batch_size must be at least 1, not 0"),
        ("train", ["--model.warmup_steps", "-1"], "warmup_steps not negative; got 2 and -1"),
        ("train", ["--model.decay_steps", "0"], "decay_steps must be at least 1, not 0"),
        ("fit", ["--model.score_batch_size", "2", "--trainer.precision", "16-mixed"], "use --trainer.precision bf16"),
        ("fit", ["--trainer.precision", "bf16-true"], "makes the trained weights half precision"),
        ("train", ["--trainer.precision", "16-true"], "use bf16-mixed, which leaves them float32"),
        (
            "train",
            ["--model.reward.init_args.gradient_free", "true"],
            "gradient_free reward ensemble gives no gradients",
        ),
        ("train", ["--model.reward.init_args.weights", "{clop: 1}"], "unknown rewards ['clop']"),
        ("train", ["--model.reward.init_args.quantise", "{clop: int8}"], "Quantisation of unknown rewards ['clop']"),
        ("train", ["--model.optimizer.init_args.lr", "-1"], "Invalid learning rate: -1"),
        ("train", ["--data.init_args.batch_size", "0"], "batch sizes must be at least 1"),
        ("train", ["--model.reward.init_args.held_out", "null"], "monitors val/held_out_reward, which is not measured"),
        ("fit", ["--callbacks.evaluation", "null"], "without the callback hn.training.callbacks.evaluation.Evaluation"),
        ("compare", ["--callbacks.evaluation", "null"], "A comparison needs the callback"),
        ("compare", ["--comparison.gallery", "-1"], "comparison.gallery must not be negative"),
        ("generate", ["--prompt", "a ball", "--count", "0"], "count (0) must be at least 1"),
    ],
)
def test_a_value_that_cannot_work_is_refused_before_weights_are_loaded(
    refused, experiment, monkeypatch, name, options, message
):
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert message in refused(name, "--config", str(experiment), *options)


def test_a_package_that_an_option_needs_is_named_before_weights_are_loaded(refused, experiment, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("hn.utils.quantisation.importlib.util.find_spec", lambda name: None)
    quantise = ["--model.reward.init_args.quantise", "int8"]
    assert "pip install 'hn[quantise]'" in refused("train", "--config", str(experiment), *quantise)


@pytest.mark.parametrize(
    ("name", "options"), [("compare", ["--comparison.steps", "[2000]"]), ("generate", ["--steps", "2000"])]
)
def test_steps_that_the_scheduler_cannot_do_are_refused_before_weights_are_loaded(
    refused, experiment, monkeypatch, name, options
):
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    prompt = ["--prompt", "a ball"] if name == "generate" else []
    message = refused(name, "--config", str(experiment), *prompt, *options)
    assert "steps must be at most 1000, the timesteps of DDIMScheduler, not 2000" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("trainr: {max_steps: 3}", "'trainr'; did you mean trainer?"),
        ("trainer: {max_stepz: 3}", "'max_stepz' in trainer; did you mean max_steps?"),
        ("data: {init_args: {num_worker: 1}}", "'num_worker' in data.init_args; did you mean num_workers?"),
        ("model: {hypernet: {init_args: {rnak: 8}}}", "'rnak' in model.hypernet.init_args; did you mean rank?"),
        ("model: {hypernet: {init_arg: {rank: 8}}}", "'init_arg' in model.hypernet; did you mean init_args?"),
        ("model: {optimizer: {init_args: {lrr: 1}}}", "'lrr' in model.optimizer.init_args; did you mean lr?"),
        ("extend: other.yaml", "'extend'; did you mean extends?"),
        ("run: {zzz: 1}", "'zzz' in run; known are experiment, name, pretrained, root."),
        (
            "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitr: a}}]}",
            "'monitr' in trainer.callbacks.0.init_args; did you mean monitor?",
        ),
    ],
)
def test_a_misspelt_key_is_named_with_its_file_and_line(refused, experiment, content, said):
    middle, child = experiment.parent / "middle.yaml", experiment.parent / "child.yaml"
    middle.write_text(f"extends: tiny.yaml\nvars: {{own: 1}}\n{content}\n")
    child.write_text("extends: middle.yaml\nrun: {name: one}\n")
    for file in (middle, child):
        message = refused("train", "--config", str(file))
        assert f"{middle}, line 3: unknown key {said}\nThe options are listed by: hn train --help\n" == message


def test_a_key_of_a_file_is_not_blamed_for_an_option_of_the_command_line(refused, experiment):
    message = refused("train", "--config", str(experiment), "--trainer.max_stepz", "4")
    assert "tiny.yaml" not in message and "--trainer.max_stepz: did you mean --trainer.max_steps?" in message


@pytest.mark.parametrize("option", ["--data.entirely_other=1", "--vars.anything=1", "--data=nonsense"])
def test_nothing_is_suggested_where_nothing_is_near(refused, experiment, option):
    assert "did you mean" not in refused("train", "--config", str(experiment), option, "--run.name", "a/b")


@pytest.mark.usefixtures("run_of_experiment")
def test_weights_of_another_rank_are_not_continued_with(refused, experiment):
    message = refused(
        "fit", "--config", str(experiment), "--run.name", "one", "--ckpt_path", "last", "--vars.rank", "3"
    )
    assert "The checkpoint is one of another model: rank is 2 there and 3 here" in message


@pytest.mark.slow
def test_generate_and_evaluations_need_trained_weights(refused, experiment, runs, make_module):
    for name in ("test", "validate", "predict", "generate"):
        prompt = ["--prompt", "a ball"] if name == "generate" else []
        assert "tiny has no trained run: train the experiment first" in refused(
            name, "--config", str(experiment), *prompt
        )
    make_weights(make_module, runs / "one" / "hypernet")
    message = refused("generate", "--config", str(experiment), "--prompt", "a bleu cow")
    assert "'bleu' (did you mean 'blue'" in message
    assert "'cow'" in message
    no_prompts = refused("test", "--config", str(experiment), "--data.init_args.test", "null")
    assert "no prompts to test on: set `test`" in no_prompts
    assert "The prompt is empty" in refused("generate", "--config", str(experiment), "--prompt", " ")
    assert "count (0)" in refused("generate", "--config", str(experiment), "--prompt", "a ball", "--count", "0")


def test_a_named_run_without_weights_is_not_replaced_by_another(refused, experiment, runs, make_module):
    make_weights(make_module, runs / "one" / "hypernet")
    for name in ("test", "generate"):
        prompt = ["--prompt", "a ball"] if name == "generate" else []
        message = refused(name, "--config", str(experiment), "--run.name", "two", *prompt)
        assert "runs/tiny/two has no trained weights" in message
        assert "trained runs are: one." in message


@pytest.mark.usefixtures("run_of_experiment")
def test_a_comparison_refuses_missing_weights_and_other_budgets(refused, runs, experiment):
    finetune = experiment.parent / "tiny_finetune.yaml"
    finetune.write_text("extends: tiny.yaml\n")
    compare = ["compare", "--config", str(experiment), "--comparison.finetune", str(finetune)]
    assert "Cannot load 'data/nothing': there is no such folder" in refused(*compare, "--hypernet", "data/nothing")
    message = refused(*compare, "--trainer.max_steps", "1")
    assert "one was trained for 2 updates, but trainer.max_steps is 1" in message
    assert not (runs.parent / "tiny_finetune").exists()


@pytest.mark.slow
def test_a_bug_while_a_comparison_trains_keeps_its_traceback(experiment, monkeypatch):
    def fail(*args):
        raise ValueError("a bug")

    monkeypatch.setattr("hn.training.module.NoiseHypernetModule.training_step", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["compare", "--config", str(experiment)])


def test_the_command_and_the_experiment_must_be_there(refused, experiment):
    assert "The command comes first: hn COMMAND" in refused("--config", str(experiment), "train")
    assert "An experiment is missing: hn train --config NAME|FILE.yaml" in refused("train")
    message = refused("trian", "--config", str(experiment), "--run.name", "test")
    assert "Unknown command 'trian', did you mean train?" in message


def test_a_fine_tune_is_no_experiment_to_compare(refused, experiment):
    message = refused("compare", "--config", str(experiment), "--comparison.finetune", str(experiment))
    assert "compare the experiment that names it" in message


def test_an_error_in_the_middle_of_training_keeps_its_traceback(experiment, monkeypatch):
    def fail(*args):
        raise ValueError("a bug")

    monkeypatch.setattr("hn.training.module.NoiseHypernetModule.training_step", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["fit", "--config", str(experiment), "--run.name", "one"])


def test_configurations_are_expanded_in_place(experiment):
    words = ["fit", "--a", "1", f"--config={experiment}", "-c", str(experiment), "--b=2"]
    expanded, files = expand_configs(words)
    assert [*expanded[:4], expanded[5], expanded[7]] == ["fit", "--a", "1", "--config", "--config", "--b=2"]
    assert yaml.safe_load(expanded[4])["vars"]["rank"] == 2
    assert files == [str(experiment)] * 2


def test_options_can_be_left_out():
    words = ["--config", "x.yaml", "-c", "y", "--run.name=a", "--run.root", "b", "--hypernet", "c", "--d"]
    assert without_options(words, ("config", "c", "run.name", "hypernet")) == ["--run.root", "b", "--d"]


def test_prompt_sets_are_looked_up_for_a_users_own_data_module(refused, experiment, tmp_path, monkeypatch):
    (tmp_path / "own_prompts.py").write_text(
        "from hn.data.module import PromptDataModule\n\n\nclass OwnPrompts(PromptDataModule):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = yaml.safe_load(experiment.read_text())
    settings["data"] = {"class_path": "own_prompts.OwnPrompts", "init_args": {"train": "genevall"}}
    experiment.write_text(yaml.safe_dump(settings))
    assert "there is no prompt set 'genevall'; did you mean geneval" in refused("fit", "--config", str(experiment))
