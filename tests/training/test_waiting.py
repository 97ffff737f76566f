"""Updates do not wait for the device: what the host reads, it reads where it logs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from tests.forward_only import FORWARD_ONLY
from tests.pretend_device import PretendDevice

ROOT = Path(__file__).parents[2]
UPDATES, LOGS_EVERY = 9, 4
HN = """
import sys
from hn.cli import main
from tests.pretend_device import PretendDevice
with PretendDevice():
    main(sys.argv[1:])
"""

# On a GPU these copies wait for nothing; they go through pinned memory (tests/utils/test_host_copy.py).
PINNED = re.compile(r"/hn/utils/device\.py: ")
# The pipeline's own sampler and its scheduler; see docs/performance.md.
SAMPLER = re.compile(r"/diffusers/schedulers/")
# At the beginning of a batch that is logged, before `Waits` has its turn.
LEARNING_RATE = re.compile(r"/lr_monitor\.py: ")


class Waits(Callback):
    """Writes to a file where the host waited in each batch, from its beginning to that of the next. All prompts are
    encoded before, as `cache: true` would have it."""

    def __init__(self, file: str):
        self.file, self.of_batches = file, []

    def on_train_start(self, trainer, pl_module):
        prompts = list(trainer.datamodule.training_prompts())
        images = torch.rand(len(prompts), 3, 32, 32).to(pl_module.generator.device)
        pl_module.generator.encode(prompts)
        pl_module.reward(images, prompts)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.of_batches.append([])
        PretendDevice.current.waits = self.of_batches[-1]

    def on_train_end(self, trainer, pl_module):
        Path(self.file).write_text(json.dumps(self.of_batches))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("optimizer", "more", "copies"),
    # Copied in each update: the noise, and what `SkipNonFinite` found. By `ScoreFunction` also the perturbations; in
    # every second update, which scores, the places of the prompts of both parts; in the first
    # one the bases, its own and that of the shifts of tokens.
    [
        ("AdamW", [], [2] * UPDATES),
        ("SGD, momentum: 0.9", [], [2] * UPDATES),
        ("AdamW", [*FORWARD_ONLY, "--model.score_batch_size", "8"], [7, 3, 5, 3, 5, 3, 5, 3, 5]),
    ],
    ids=["AdamW", "SGD", "forward_only"],
)
def test_no_update_waits_between_logging_intervals(tmp_path, optimizer, more, copies, experiment):
    """With the callbacks that experiments have."""
    name, *options = optimizer.split(", ")
    waits = {"class_path": "tests.training.test_waiting.Waits", "init_args": {"file": str(tmp_path / "waits.json")}}
    settings = {
        "model.optimizer": f"{{class_path: torch.optim.{name}, init_args: {{{', '.join(['fused: true', *options])}}}}}",
        "callbacks.waits": json.dumps(waits),
        "callbacks.progress.init_args.line_every": LOGS_EVERY,
        "trainer.log_every_n_steps": LOGS_EVERY,
        "trainer.accelerator": "auto",
        "trainer.strategy": "{class_path: tests.pretend_device.PretendStrategy}",
        "trainer.max_steps": UPDATES,
        "trainer.limit_val_batches": 0,
        "trainer.val_check_interval": 100,
    }
    settings |= {f"callbacks.{name}": "null" for name in ("evaluation", "images", "best")}
    command = [sys.executable, "-c", HN, "fit", "--config", str(experiment)]
    command += [f"--{option}={value}" for option, value in settings.items()] + more
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    waits = json.loads((tmp_path / "waits.json").read_text())
    assert len(waits) == UPDATES
    for number, places in enumerate(waits[:-1], 1):  # at the end the bar reads, and the last checkpoint
        expected = [PINNED, SAMPLER] + [LEARNING_RATE] * ((number + 1) % LOGS_EVERY == 0)
        unexpected = [place for place in places if not any(each.search(place) for each in expected)]
        assert bool(unexpected) == (number % LOGS_EVERY == 0), unexpected
        assert len([place for place in places if PINNED.search(place)]) == copies[number - 1]
