"""Training in two processes, from the command line: the same run as in one process."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from hn.cli import main
from hn.report.curves import read_scalars
from tests.forward_only import FORWARD_ONLY
from tests.two_processes import free_port

ROOT = Path(__file__).parents[2]
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
FSDP2 = ["--trainer.strategy", "{class_path: hn.training.strategy.ShardedStrategy}", "--trainer.devices", "2"]
# Momentum, so that the optimiser's state matters; a learning rate and a clipping that both have something to say.
OPTIONS = ["--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.5, momentum: 0.9}}"]
OPTIONS += ["--trainer.gradient_clip_val", "0.05", "--model.decay_steps", "10"]
# In double precision sums in another order differ by no more than what the comparison allows.
OPTIONS += ["--model.generator.init_args.dtype", "float64"]
OPTIONS += ["--model.reward.init_args.rewards.clip.init_args.dtype", "float64"]
# Training alone.
OPTIONS += ["--callbacks.evaluation", "null", "--callbacks.best", "null", "--callbacks.images", "null"]
OPTIONS += ["--trainer.limit_val_batches", "0", "--trainer.val_check_interval", "100"]


@pytest.fixture
def runs(experiment) -> Path:
    """The directory of the tiny experiment's runs."""
    return experiment.parent / "runs" / "tiny"


@pytest.fixture
def hn(experiment):
    """Runs `hn COMMAND` on the tiny experiment in a process of its own, which may start others."""

    def run(name: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "hn", name, "--config", str(experiment), *OPTIONS, *options]
        settings = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_PORT": str(free_port())}
        settings |= environment
        return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=280, cwd=experiment.parent)

    return run


@pytest.fixture
def one_process(experiment):
    """Runs `hn fit` here, by default in batches as large as those of two processes together."""

    def run(*options: str, batch_size: int = 8) -> None:
        sizes = ["--data.init_args.batch_size", str(batch_size)]
        main(["fit", "--config", str(experiment), *OPTIONS, *sizes, *options])

    return run


def state(run: Path) -> dict:
    """What a run's last checkpoint says of weights, optimiser and schedule."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}


def curves(run: Path) -> dict:
    """What a run logs of training, by name."""
    return {name: values for name, (_, values) in read_scalars(run).items() if name.startswith("train/")}


def close(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_strategies_take_turns_and_the_run_is_that_of_one_process(hn, one_process, runs):
    """FSDP2, DDP, FSDP2 and one process go on from one another's checkpoint, in batches of the same size together."""
    for name, strategy, steps in (("fit", FSDP2, 2), ("fit", DDP, 3), ("train", FSDP2, 4)):
        run = next(iter(runs.iterdir())) if runs.is_dir() else None  # the first one is named by the time
        again = ["--run.name", run.name, "--ckpt_path", "last"] if run else []
        done = hn(name, *strategy, "--trainer.max_steps", str(steps), *again)
        assert done.returncode == 0, done.stderr
        assert "in a new order" not in done.stderr
    (run,) = runs.iterdir()
    before = state(run)
    assert before["global_step"] == 4

    one_process("--run.name", "whole", "--trainer.max_steps", "4")
    close(before, state(runs / "whole"))
    moved = [weight.abs().max() for name, weight in before["state_dict"].items() if "lora_B" in name]
    assert min(moved) > 1e-6

    losses, expected = curves(run), curves(runs / "whole")
    assert len(losses["train/loss"]) == 4 and len(set(losses["train/loss"])) == 4
    assert {"train/loss", "train/reward", "train/regulariser", "train/kl_nats", "train/reward_clip"} <= losses.keys()
    for name, values in losses.items():  # which TensorBoard keeps in single precision
        assert values == pytest.approx(expected[name], rel=1e-6, abs=1e-12)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*in a new order")
        for name in (run.name, "whole"):
            one_process("--run.name", name, "--ckpt_path", "last", "--trainer.max_steps", "5")
    close(state(run), state(runs / "whole"))

    # `train` kept the weights in whole tensors, with what they were trained on.
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 5
    kept = run / "hypernet"
    assert {"adapter_model.safetensors", "hypernet_config.json", "README.md"} <= {file.name for file in kept.iterdir()}


@pytest.mark.slow
def test_forward_passes_alone_in_two_processes_are_those_of_one(hn, one_process, runs):
    """Two processes stop between two updates that share a batch's scores; one process goes on from there."""
    done = hn("fit", *DDP, *FORWARD_ONLY, "--run.name", "two", "--trainer.max_steps", "3")
    assert done.returncode == 0, done.stderr
    assert len(torch.load(runs / "two" / "checkpoints" / "last.ckpt", weights_only=True)["hn_scores"]["/total"]) == 8
    one_process("--run.name", "two", "--ckpt_path", "last", "--trainer.max_steps", "4", *FORWARD_ONLY)
    one_process("--run.name", "whole", "--trainer.max_steps", "4", *FORWARD_ONLY)
    found, expected = state(runs / "two"), state(runs / "whole")
    assert expected["state_dict"]["out.weight"].abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # the network is in single precision


@pytest.mark.slow
@pytest.mark.parametrize("noise_type", ["inf", "batch", "multi"])
def test_accumulated_batches_are_one_large_batch(one_process, runs, noise_type):
    options = ["--model.noise_type", noise_type, "--trainer.max_steps", "2"]
    one_process("--run.name", "large", *options)
    # 14 prompts an epoch: one batch of 8, or three of 4, of which the last would be an update by itself.
    one_process(
        "--run.name", "parts", *options, "--trainer.accumulate_grad_batches", "2",
        "--trainer.limit_train_batches", "2", batch_size=4,
    )  # fmt: skip
    close(state(runs / "parts"), state(runs / "large"))


def test_processes_that_did_not_start_each_other_need_a_name(refuse, experiment, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "started by torchrun need the run's name" in refuse("fit", "--config", experiment)
    shown = refuse("compare", "--config", experiment, "--run.name", "x")
    assert "hn compare runs in one process; start it without torchrun" in shown


def test_machines_started_by_hand_need_a_name(refuse, experiment):
    assert "hand on several machines" in refuse("train", "--config", experiment, "--trainer.num_nodes", "2")


def test_a_comparison_trains_on_one_device(refuse, experiment):
    shown = refuse("compare", "--config", experiment, "--trainer.devices", "2")
    assert "hn train --config" in shown and "--trainer.devices 1" in shown


def test_lightnings_own_sharding_is_refused(refuse, experiment):
    strategy = "{class_path: lightning.pytorch.strategies.ModelParallelStrategy, init_args: {tensor_parallel_size: 1}}"
    shown = refuse("fit", "--config", experiment, "--trainer.strategy", strategy, silent=False)
    assert "{class_path: hn.training.strategy.ShardedStrategy}" in shown


def test_an_optimiser_that_cannot_be_shared_out_is_refused_before_weights_are_loaded(refuse, experiment, monkeypatch):
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    optimizer = ["--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.5, fused: true}}"]
    assert "fused=false" in refuse("fit", "--config", experiment, *FSDP2, *optimizer)


@pytest.mark.slow
def test_rank_zero_speaks_for_all(hn):
    done = hn("fit", *DDP, "--data.init_args.batch_size", "9", "--run.name", "large")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    assert "14 training prompts do not fill one batch of 9 on 2 device(s)" in done.stderr


SRUN = """#!/bin/sh
# A stand-in for SLURM's: the tasks' command and number.
[ "$1" = --kill-on-bad-exit=1 ] && shift
printf '%s\\n' "$@" > arguments.txt
"""


def test_the_slurm_script_names_the_run_after_the_job_and_goes_on(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    settings = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4", "EXP": "miniature"}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def submit(**environment: str) -> subprocess.CompletedProcess:
        command = ["bash", str(ROOT / "experiments" / "slurm" / "train.sbatch"), "--model.seed=3"]
        return subprocess.run(
            command, cwd=tmp_path, env={"PATH": path, **environment}, capture_output=True, text=True, timeout=20
        )

    def arguments() -> list[str]:
        return (tmp_path / "arguments.txt").read_text().splitlines()

    assert submit(**settings).returncode == 0
    configs = ["--config", "experiments/shared/strategies/ddp.yaml", "--config", "experiments/miniature.yaml"]
    devices = ["--trainer.num_nodes", "2", "--trainer.devices", "4"]
    name = ["--run.name", "slurm_77"]
    assert arguments() == ["hn", "train", *configs, *devices, *name, "--model.seed=3"]

    run = tmp_path / "runs" / "miniature" / "slurm_77"
    for number, file in enumerate(("checkpoints/last.ckpt", "hpc_ckpt_1.ckpt")):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).touch()
        os.utime(run / file, (1000 + number, 1000 + number))
        assert submit(STRATEGY="fsdp2", **settings).returncode == 0
        resume = ["--ckpt_path", f"runs/miniature/slurm_77/{file}"]
        assert arguments() == ["hn", "train", configs[0], configs[1].replace("ddp", "fsdp2"), *configs[2:], *devices,
                               *name, *resume, "--model.seed=3"]  # fmt: skip

    missing = submit(SLURM_JOB_ID="77")
    assert missing.returncode != 0 and "set EXP to the name of an experiment" in missing.stderr


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_fragment_before_an_experiment_is_its_strategy(strategy, experiment, capsys):
    fragment = ROOT / "experiments" / "shared" / "strategies" / f"{strategy}.yaml"
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", str(fragment), "--config", str(experiment), "--print_config"])
    assert caught.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    expected = yaml.safe_load(fragment.read_text())["trainer"]
    assert found["trainer"]["strategy"]["class_path"] == expected["strategy"]["class_path"]
    assert found["trainer"]["max_steps"] == 2
