"""Updates do not wait for the device: what the host reads, it reads where it logs."""

import re

import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.loggers import TensorBoardLogger

from hn.callbacks.collapse import RewardCollapse
from hn.callbacks.last_checkpoint import LastCheckpoint
from hn.callbacks.nonfinite import SkipNonFinite
from hn.callbacks.progress import StepProgressBar
from hn.callbacks.signals import StopOnSignal
from tests.pretend_device import PretendDevice, PretendStrategy

UPDATES, LOGS_EVERY = 9, 4

# On a GPU these copies wait for nothing; they go through pinned memory (tests/test_host_copy.py).
PINNED = re.compile(r"/hn/host_copy\.py: ")
# The pipeline's own sampler asks its scheduler at each step; see docs/performance.md.
SAMPLER = re.compile(r"/diffusers/schedulers/")


class Waits(Callback):
    """Where the host waited in each batch, from its beginning to that of the next; first of all it has the prompts
    encoded, as `cache: true` has it."""

    def __init__(self, device):
        self.device, self.of_batches = device, []

    def on_train_start(self, trainer, pl_module):
        prompts = trainer.datamodule.training_prompts()
        images = torch.rand(len(prompts), 3, 32, 32).to(pl_module.generator.device)
        pl_module.generator.encode(prompts)
        pl_module.reward(images, prompts)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.of_batches.append([])
        self.device.waits = self.of_batches[-1]

    def on_train_end(self, trainer, pl_module):
        self.device.waits = []


def _train(rank, folder, optimizer, make_module, make_data, make_trainer):
    device = PretendDevice()
    waits = Waits(device)
    others = [Timer(interval="step"), LearningRateMonitor(), RewardCollapse(), StopOnSignal(), LastCheckpoint()]
    with device:
        trainer = make_trainer(
            accelerator="auto",
            strategy=PretendStrategy(device),
            callbacks=[waits, StepProgressBar(line_every=LOGS_EVERY), SkipNonFinite(), *others],
            logger=TensorBoardLogger(folder),
            log_every_n_steps=LOGS_EVERY,
            max_steps=UPDATES,
            limit_val_batches=0,
            gradient_clip_val=1.0,
            enable_progress_bar=True,
        )
        trainer.fit(make_module(optimizer=optimizer, warmup_steps=3), datamodule=make_data())
    torch.save(waits.of_batches, folder / "waits.pt")


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, fused=True),
    ],
    ids=["AdamW", "SGD"],
)
def test_no_update_waits_between_logging_intervals(tmp_path, optimizer, make_module, make_data, make_trainer):
    arguments = (tmp_path, optimizer, make_module, make_data, make_trainer)
    mp.start_processes(_train, arguments, nprocs=1, start_method="fork")
    waits = torch.load(tmp_path / "waits.pt")
    assert len(waits) == UPDATES
    for number, places in enumerate(waits[:-1]):  # at the end the bar and the last checkpoint read
        unexpected = [place for place in places if not PINNED.search(place) and not SAMPLER.search(place)]
        # The noise, and what `SkipNonFinite` found.
        assert len([place for place in places if PINNED.search(place)]) == 2
        assert bool(unexpected) == ((number + 1) % LOGS_EVERY == 0), unexpected
