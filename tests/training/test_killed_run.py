"""A run that is killed with SIGKILL, again and again, ends with the weights of one that is not.

In the environment, HN_TEST_KILLS=10 kills it ten times rather than three, and
HN_TEST_EXPERIMENT=experiments/miniature.yaml takes that experiment rather than the tiny one.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hn.cli import main
from tests.forward_only import FORWARD_ONLY

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("HN_TEST_KILLS", "3"))
UPDATES = 4 * KILLS + 2
OPTIONS = [
    "--trainer.max_steps",
    str(UPDATES),
    "--model.decay_steps",
    str(UPDATES),
    "--trainer.val_check_interval",
    "5",
]
OPTIONS += ["--callbacks.images", "null", "--callbacks.progress.init_args.line_every", "1"]
OPTIONS += ["--callbacks.last.init_args.every_n_steps", "2", "--data.init_args.limit_val", "2"]
KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")


@pytest.fixture
def arguments(experiment, tmp_path):
    """The arguments of a run of a name."""
    fixed = ["--config", os.environ.get("HN_TEST_EXPERIMENT", str(experiment)), "--run.root", str(tmp_path / "runs")]
    return lambda name, *more: ["fit", *fixed, "--run.experiment", "killed", "--run.name", name, *OPTIONS, *more]


@pytest.fixture
def start(arguments):
    """Starts `hn fit` in a process of its own."""

    def run(*words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "hn", *arguments(*words)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def kill_at(process: subprocess.Popen, update: int, delay: float) -> None:
    """Kill a process so many seconds after it has said that it has done an update."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        found = re.match(r"step (\d+)/", line)
        if found and int(found[1]) >= update:
            break
    else:
        pytest.fail("".join(lines))
    time.sleep(delay)
    assert process.poll() is None  # it is at work
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(300 + 120 * KILLS)
@pytest.mark.parametrize(("options", "trained"), [([], "lora_B"), (FORWARD_ONLY, "out.weight")], ids=["lora", "conv"])
def test_killed_at_random_updates_it_ends_with_the_same_weights(arguments, start, tmp_path, options, trained):
    main(arguments("whole", *options))
    chance = random.Random(7)
    for k in range(KILLS):
        # A moment after the update: in the next one, in a validation, or as a file is written.
        process = start("killed", *options, *(["--ckpt_path", "last"] if k else []))
        kill_at(process, 4 * k + chance.randint(2, 5), delay=chance.uniform(0, 0.05))
    process = start("killed", *options, "--ckpt_path", "last")
    written = process.communicate(timeout=120)[1]
    assert process.returncode == 0, written

    runs = tmp_path / "runs" / "killed"
    whole, killed = (
        torch.load(runs / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "killed")
    )
    for key in KEPT:
        torch.testing.assert_close(killed[key], whole[key], rtol=0, atol=0)
    batches = [state["loops"]["fit_loop"]["epoch_loop.batch_progress"] for state in (whole, killed)]
    assert batches[0] == batches[1]
    assert whole["global_step"] == UPDATES
    assert any(weight.abs().max() > 0 for name, weight in whole["state_dict"].items() if trained in name)
