"""Training in two processes, from the command line: the same run as in one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hn.report.curves import read_scalars

STEPS = 3
OPTIONS = ["--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "3", "--trainer.gradient_clip_val", "0.05"]
# Three updates move every weight; momentum makes the optimiser's state matter.
OPTIMIZER = ["--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.5, momentum: 0.9}}"]
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]


@pytest.fixture
def hn(experiment):
    """Runs `hn VERB` on the tiny experiment in a process of its own, which may start others."""

    def run(verb: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "hn", verb, "--config", str(experiment), *OPTIONS, *OPTIMIZER, *options]
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
        return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def train(hn, experiment):
    """Runs `hn fit` under a name; what its last checkpoint holds, and the loss of each update."""

    def run(name: str, *options: str) -> tuple[dict, list[float]]:
        done = hn("fit", "--run.name", name, *options)
        assert done.returncode == 0, done.stderr
        directory = experiment.parent / "runs" / "tiny" / name
        checkpoint = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
        return checkpoint, read_scalars(directory)["train/loss"][1]

    return run


def test_try(train):
    a = train("two", *DDP)
    b = train("one", "--data.init_args.batch_size", "8")
    print(a[1], b[1])
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        torch.testing.assert_close(a[0][key], b[0][key], rtol=0, atol=1e-6)
    assert 0
