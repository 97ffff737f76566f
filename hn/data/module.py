"""Prompt sets for training, validation, testing and prediction."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from hn.data.hub import HubPrompts
from hn.data.manifest import PromptFile
from hn.data.prompts import PromptBatch, PromptDataset, collate_prompts
from hn.data.resumable import EpochShuffle, ResumableLoader
from hn.data.sources import parse_sources
from hn.data.store import PromptStore
from hn.utils.numbers import PositiveInt

Paths = dict[str, float] | list[str] | str | None
PURPOSES = ("train", "val", "test", "predict")


def check_names(paths: Mapping[str, Any]) -> None:
    """Check that prompts are files or known sets, before any is read or downloaded.

    Args:
        paths: sources by "train", "val", "test" and "predict"; other keys are ignored.

    Raises:
        ValueError: as `parse_sources`.
    """
    for purpose in PURPOSES:
        if paths.get(purpose):
            parse_sources(paths[purpose], purpose)


def fetch_sets(paths: Mapping[str, Any], stage: str | None, store: PromptStore) -> None:
    """Download the named sets that a stage needs, except those on this machine.

    Args:
        paths: sources by "train", "val", "test" and "predict"; other keys are ignored.
        stage: "fit", "validate", "test" or "predict"; None for all of them.
        store: the folder of sets.

    Raises:
        DownloadError: if a set cannot be downloaded; says how to get it.
        ValueError: if a file of a set has another checksum, or as `parse_sources`.
    """
    # A fit needs the test prompts too, to keep them out of training.
    needs = {"fit": ("train", "val", "test"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
    needed = [name for name in needs.get(stage, PURPOSES) if paths.get(name)]
    sources = [source for name in needed for source in parse_sources(paths[name], name)]
    for file in dict.fromkeys(file for source in sources for file in source.files):
        if isinstance(file, PromptFile):
            store.fetch(file)
        elif isinstance(file, HubPrompts):
            store.stream(file)


class PromptDataModule(LightningDataModule):
    """Prompts from files or named sets, as batches {"prompt": list[str], "metadata": list[dict], "index": int64 [B]}.

    Training batches are full and shuffled in each epoch, in an order that depends on `seed` and epoch only. A run that
    is resumed in the middle of an epoch continues with its remaining batches. The other sets keep the order of their
    files.

    `train`, `val`, `test` and `predict` each take a file (see `read_prompts` for the formats), the name of a set, like
    geneval or t2i_compbench/color/train (`hn prompts list` shows all), the address of a column of a data set on the
    Hub, like hf://yuvalkirstain/pickapic_v2_no_images/train/caption, a list of these, or a mapping from these to
    weights. Sets that are not on this machine are downloaded before the work starts.

    In `train`, a weight is the number of times that an epoch has each prompt: {t2i_compbench: 2.0, pickapic_v1: 0.5}
    takes T2I-CompBench's prompts twice and one half of Pick-a-Pic's, the other half in the next epoch (see
    `hn.data.mix.Part`). The prompts of an epoch depend on `seed` and epoch only, so mixes resume exactly, too. In the
    other sets, a weight is a whole number of repetitions.

    Args:
        train: prompts to train on.
        val: to validate on.
        test: to test on.
        predict: to generate images for.
        batch_size: training prompts per step and device.
        eval_batch_size: prompts per step and device in validation, tests and prediction; `batch_size` by default.
        num_workers: worker processes of the data loaders; prompts are in memory, so 0 is usually best.
        seed: of the order of training prompts.
        limit_train: use only this many training prompts, the first ones (before weights); None for all.
        limit_val: use only this many validation prompts, evenly spaced, so that there are some of each category.
        limit_test: likewise.
        limit_predict: use only the first ones.
        exclude_eval_prompts: remove all prompts of `val` and `test` (whatever their limits) from training. Prompts that
            differ only in case, spacing or a final full stop are the same.
        deduplicate: keep only the first of equal training prompts; None does so for named sets (except those whose
            repeats are intended) and not for files.
        filter_unsafe: remove prompts with a word of data/prompts/unsafe_words.txt; None does so for the sets that the
            manifest marks, like Pick-a-Pic.
        prompts_folder: folder of named sets; if None, the environment variable HN_PROMPTS or the user's cache folder.

    Attributes:
        datasets: those read so far, by "train", "val", "test" and "predict".
        prefetch_hook: told of each training batch but an epoch's first while the one before it is worked on; set by a
            module that can prepare for it.
        updates_per_batch: updates in a row that get the same training batches; set by a module that wants more than 1.

    Raises:
        ValueError: if an option is out of range or a name unknown; in `setup`, as `read_prompts`, or if a set that the
            stage needs is not given or is empty.
        FileNotFoundError: in `setup`, if a file is missing.
        DownloadError: in `prepare_data` or `setup`, if a named set cannot be downloaded.
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
        limit_train: PositiveInt | None = None,
        limit_val: PositiveInt | None = None,
        limit_test: PositiveInt | None = None,
        limit_predict: PositiveInt | None = None,
        exclude_eval_prompts: bool = True,
        deduplicate: bool | None = None,
        filter_unsafe: bool | None = None,
        prompts_folder: str | None = None,
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
        self.deduplicate = deduplicate
        self.filter_unsafe = filter_unsafe
        self.store = PromptStore(prompts_folder)
        check_names(self.paths)
        self.datasets: dict[str, PromptDataset] = {}
        self.prefetch_hook: Callable[[PromptBatch], None] | None = None
        self.updates_per_batch = 1

    def prepare_data(self) -> None:
        """Download missing named sets, in one process per machine while the others wait."""
        fetch_sets(self.paths, self.trainer.state.fn if self.trainer else None, self.store)

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
            updates_per_batch=self.updates_per_batch,
            batches_per_update=self.trainer.accumulate_grad_batches if self.trainer else 1,
        )
        loader = ResumableLoader(
            self.datasets["train"],
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            collate_fn=collate_prompts,
            num_workers=self.num_workers,
            pin_memory=self._on_cuda,
        )
        if self.prefetch_hook is not None:
            loader.prefetch_hook = self.prefetch_hook
        return loader

    def val_dataloader(self) -> DataLoader | list[Any]:
        return self._eval_loader("val") if "val" in self.datasets else []

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader:
        return self._eval_loader("predict")

    def training_prompts(self) -> list[str]:
        """All training prompts, read now if `setup` has not read them; empty without `train`.

        Raises:
            ValueError, FileNotFoundError, DownloadError: as `setup`.
        """
        if not self.paths["train"]:
            return []
        return (self.datasets.get("train") or self._training_dataset()).prompts

    def _batches_done(self) -> int:
        """Number of training batches done in the current epoch; more than 0 only if a run was resumed."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0

    def _eval_loader(self, name: str) -> DataLoader:
        # Lightning rebuilds this loader for predictions, which needs all arguments as keywords.
        return DataLoader(
            self.datasets[name],
            batch_size=self.eval_batch_size,
            collate_fn=collate_prompts,
            num_workers=self.num_workers,
            pin_memory=self._on_cuda,
        )

    @property
    def _on_cuda(self) -> bool:
        """Whether batches go to a CUDA device: then they are pinned, and Lightning copies them asynchronously."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _read(self, name: str) -> None:
        if not self.paths[name]:
            raise ValueError(
                f"no prompts to {name} on: set `{name}` of PromptDataModule to a prompt file, like my_prompts.txt, "
                "or a named set, like examples (`hn prompts list` shows them)"
            )
        is_training = name == "train"
        dataset = self._training_dataset() if is_training else self._dataset(name, limit=self.limits[name])
        self.datasets[name] = dataset
        if is_training:
            files = (file for source in dataset.sources for file in source.files if isinstance(file, PromptFile))
            meant_for_tests = [file.name for file in files if file.split == "test"]
            if meant_for_tests:
                rank_zero_warn(f"Training on prompts that are for evaluation: {', '.join(meant_for_tests)}.")
        kind = "training" if is_training else name
        for count, reason in (
            (dataset.n_unsafe, "have unsafe words"),
            (dataset.n_excluded, "are evaluation prompts too"),
            (dataset.n_repeated, "are repeated"),
        ):
            if count:
                rank_zero_info(f"{count} {kind} prompts {reason} and are left out; {len(dataset)} remain")

    def _training_dataset(self) -> PromptDataset:
        held_out = self._eval_prompts() if self.exclude_eval_prompts else []
        options = {"limit": self.limits["train"], "exclude": held_out, "deduplicate": self.deduplicate}
        return self._dataset("train", **options)

    def _eval_prompts(self) -> list[str]:
        return [prompt for name in ("val", "test") if self.paths[name] for prompt in self._dataset(name).prompts]

    def _dataset(self, name: str, **options: Any) -> PromptDataset:
        return PromptDataset(
            self.paths[name], purpose=name, filter_unsafe=self.filter_unsafe, store=self.store, **options
        )
