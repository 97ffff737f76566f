"""Prompt sets for training, validation, testing and prediction."""

from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from hn.data.prompts import PromptDataset, collate_prompts
from hn.data.resumable import EpochShuffle, ResumableLoader

Paths = str | list[str] | None


class PromptDataModule(LightningDataModule):
    """Prompts from files, as batches {"prompt": list[str], "metadata": list[dict], "index": int64 [B]}.

    Training batches are full and shuffled anew each epoch, in an order that depends on `seed` alone; a run resumed in
    the middle of an epoch goes on with the batches that were left. The other sets keep the order of their files.

    Args:
        train: prompt file or files to train on (see `read_prompts` for the formats).
        val: to validate on.
        test: to test on.
        predict: to generate images for.
        batch_size: training prompts per step and device.
        eval_batch_size: prompts per step and device otherwise; as `batch_size` by default.
        num_workers: processes that read ahead; prompts are in memory, so 0 is best as a rule.
        seed: decides the order of training prompts.
        limit_train: use only so many training prompts, the first ones; None for all.
        limit_val: likewise.
        limit_test: likewise.
        limit_predict: likewise.
        exclude_eval_prompts: leave the prompts of `val` and `test`, limited or not, out of training, so that what is
            measured was not trained on. Prompts that differ in letter case, spacing or a final full stop are the same.

    Raises:
        FileNotFoundError, ValueError: in `setup`, for files as `read_prompts` says, and if a set that the stage needs
            is not given or is empty.
    """

    def __init__(
        self,
        train: Paths = None,
        val: Paths = None,
        test: Paths = None,
        predict: Paths = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
        limit_predict: int | None = None,
        exclude_eval_prompts: bool = True,
    ):
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        if batch_size < 1 or eval_batch_size < 1 or num_workers < 0:
            raise ValueError(
                "batch sizes must be at least 1 and num_workers not negative; got "
                f"batch_size {batch_size}, eval_batch_size {eval_batch_size}, num_workers {num_workers}"
            )
        self.paths = {"train": train, "val": val, "test": test, "predict": predict}
        self.limits = {"train": limit_train, "val": limit_val, "test": limit_test, "predict": limit_predict}
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.exclude_eval_prompts = exclude_eval_prompts
        self.datasets: dict[str, PromptDataset] = {}

    def setup(self, stage: str) -> None:
        """Read the sets that a stage ("fit", "validate", "test" or "predict") needs."""
        if stage == "fit":
            self._read("train")
        if stage == "validate" or (stage == "fit" and self.paths["val"]):
            self._read("val")
        for name in ("test", "predict"):
            if stage == name:
                self._read(name)

    def train_dataloader(self) -> DataLoader:
        sampler = EpochShuffle(
            self.datasets["train"],
            self.batch_size,
            self.seed,
            self._batches_done,
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
        )
        return ResumableLoader(
            self.datasets["train"],
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            collate_fn=collate_prompts,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> DataLoader | list[Any]:
        return self._eval_loader("val") if "val" in self.datasets else []

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader:
        return self._eval_loader("predict")

    def _batches_done(self) -> int:
        """Number of training batches done in the running epoch; more than 0 only where a run resumes."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0

    def _eval_loader(self, name: str) -> DataLoader:
        # Lightning makes another loader of this one for predictions, for which its arguments must be named.
        return DataLoader(
            self.datasets[name],
            batch_size=self.eval_batch_size,
            collate_fn=collate_prompts,
            num_workers=self.num_workers,
        )

    def _read(self, name: str) -> None:
        if not self.paths[name]:
            raise ValueError(f"no prompts to {name} on: set `{name}` of PromptDataModule to a .jsonl or .txt file")
        held_out = self._eval_prompts() if name == "train" and self.exclude_eval_prompts else []
        self.datasets[name] = dataset = PromptDataset(self.paths[name], self.limits[name], held_out)
        if dataset.n_excluded:
            rank_zero_info(
                f"{dataset.n_excluded} training prompts are evaluation prompts too and are left out; "
                f"{len(dataset)} remain"
            )

    def _eval_prompts(self) -> list[str]:
        return [
            prompt for name in ("val", "test") if self.paths[name] for prompt in PromptDataset(self.paths[name]).prompts
        ]
