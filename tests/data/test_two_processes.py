"""Training in two processes: they share each epoch, and a run that goes on sees exactly what was left."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from hn.data import PromptDataModule, PromptDataset
from hn.data.resumable import EpochShuffle

BATCH_SIZE, EPOCH = 2, 3  # 13 rows an epoch: three batches of two on each process, one row is left over


class Recorder(LightningModule):
    """Writes the prompts that each process is trained on to a file of its own."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch):
        with (self.folder / f"rank{self.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(batch["index"].tolist()) + "\n")
        return self.weight * batch["index"].sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@pytest.fixture
def fit(tmp_path, server, make_manifest):
    """Trains in two processes on a mix of a file and a set that has to be fetched; what each of the two saw."""
    server.files["fetched.txt"] = b"".join(b"fetched %d\n" % number for number in range(6))
    make_manifest({"words": {"fetched.txt": ("train", server.files["fetched.txt"])}}, urls=[server.url()])
    own = tmp_path / "own.txt"
    own.write_text("".join(f"own {number}\n" for number in range(10)))

    def run(name: str, ckpt_path: str | None = None, num_workers: int = 0, **options) -> list[list[list[int]]]:
        folder = tmp_path / name
        folder.mkdir()
        trainer = Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp_fork",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            **{"enable_checkpointing": bool(options.get("callbacks")), **options},
        )
        sources, loading = {str(own): 1.0, "words": 0.5}, {"batch_size": BATCH_SIZE, "num_workers": num_workers}
        data = PromptDataModule(train=sources, **loading)
        trainer.fit(Recorder(folder), data, ckpt_path=ckpt_path)
        lines = [(folder / f"rank{rank}.jsonl").read_text().splitlines() for rank in range(2)]
        return [[json.loads(line) for line in rank] for rank in lines]

    run.paths = {str(own): 1.0, "words": 0.5}
    return run


@pytest.mark.slow
@pytest.mark.forks
@pytest.mark.parametrize(("at", "num_workers"), [(1, 0), (EPOCH, 0), (EPOCH + 2, 1)])
def test_a_run_of_two_processes_goes_on_where_it_stopped(fit, server, tmp_path, at, num_workers):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=at)
    first = fit("first", max_steps=at, callbacks=[saver], num_workers=num_workers)
    rest = fit("rest", tmp_path / f"step={at}.ckpt", num_workers, max_epochs=3)
    assert len(server.asked) == 1  # one process has fetched the set for both

    dataset = PromptDataset(fit.paths, purpose="train")
    for rank in range(2):
        sampler = EpochShuffle(dataset, BATCH_SIZE, num_replicas=2, rank=rank)
        rows = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            rows += list(sampler)
        batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
        assert len(batches) == 3 * EPOCH
        assert first[rank] == batches[:at]
        assert rest[rank] == batches[at:]
