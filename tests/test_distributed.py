"""Training in two processes, from the command line: the same run as in one process."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from hn.cli import main
from hn.hypernets import Hypernet
from hn.report.curves import read_scalars

ROOT = Path(__file__).parents[1]
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
FSDP2 = ["--trainer.strategy", "{class_path: hn.strategies.ShardedStrategy}", "--trainer.devices", "2"]
# Momentum, so that the optimiser's state matters; a learning rate and a clipping that both have something to say.
OPTIONS = ["--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.5, momentum: 0.9}}"]
OPTIONS += ["--trainer.gradient_clip_val", "0.05", "--model.decay_steps", "10"]
# Training alone.
OPTIONS += ["--callbacks.evaluation", "null", "--callbacks.best", "null", "--callbacks.images", "null"]
OPTIONS += ["--trainer.limit_val_batches", "0", "--trainer.val_check_interval", "100"]


@pytest.fixture
def runs(experiment) -> Path:
    """The directory of the tiny experiment's runs."""
    return experiment.parent / "runs" / "tiny"


@pytest.fixture
def hn(experiment):
    """Runs `hn VERB` on the tiny experiment in a process of its own, which may start others."""

    def run(verb: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "hn", verb, "--config", str(experiment), *OPTIONS, *options]
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
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
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_strategies_take_turns_and_the_run_is_that_of_one_process(hn, one_process, runs, capsys):
    """FSDP2, DDP, FSDP2 and one process go on from one another's checkpoint, in batches of the same size together."""
    for verb, strategy, steps in (("fit", FSDP2, 2), ("fit", DDP, 3), ("train", FSDP2, 4)):
        run = next(iter(runs.iterdir())) if runs.is_dir() else None  # the first one is named by the time
        again = ["--run.name", run.name, "--ckpt_path", "last"] if run else []
        done = hn(verb, *strategy, "--trainer.max_steps", str(steps), *again)
        assert done.returncode == 0, done.stderr
        assert "in a new order" not in done.stderr
    (run,) = runs.iterdir()
    before = state(run)
    assert before["global_step"] == 4

    one_process("--run.name", "whole", "--trainer.max_steps", "4")
    close(before, state(runs / "whole"))
    moved = [weight.abs().max() for name, weight in before["state_dict"].items() if "lora_B" in name]
    assert min(moved) > 1e-5

    losses, expected = curves(run), curves(runs / "whole")
    assert len(losses["train/loss"]) == 4 and len(set(losses["train/loss"])) == 4
    assert {"train/loss", "train/reward", "train/regulariser", "train/kl_nats", "train/reward_clip"} == losses.keys()
    for name, values in losses.items():
        assert values == pytest.approx(expected[name], abs=1e-6, rel=1e-4 if "nats" in name else 0)

    capsys.readouterr()
    for name in (run.name, "whole"):
        one_process("--run.name", name, "--ckpt_path", "last", "--trainer.max_steps", "5")
    assert "in a new order" not in capsys.readouterr().err
    close(state(run), state(runs / "whole"))

    # `train` kept the weights in whole tensors, with what they were trained on.
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 5
    kept = run / "hypernet"
    assert {"adapter_model.safetensors", "hypernet_config.json", "README.md"} <= {file.name for file in kept.iterdir()}


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
