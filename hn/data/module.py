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

Paths = dict[str, float] | list[str] | str | None
PURPOSES = ("train", "val", "test", "predict")


def check_names(paths: Mapping[str, Any]) -> None:
    """Refuse prompts that are neither files nor known sets, before anything is read or fetched.

    Args:
        paths: what is asked for under "train", "val", "test" and "predict"; the rest of the mapping is ignored.

    Raises:
        ValueError: as `parse_sources`.
    """
    for purpose in PURPOSES:
        if paths.get(purpose):
            parse_sources(paths[purpose], purpose)


def fetch_sets(paths: Mapping[str, Any], stage: str | None, store: PromptStore) -> None:
    """Fetch the named sets that a stage needs and that are not here.

    Args:
        paths: what is asked for under "train", "val", "test" and "predict"; the rest of the mapping is ignored.
        stage: "fit", "validate", "test" or "predict"; None for all of them.
        store: where sets are kept.

    Raises:
        DownloadError: if one cannot be had; says how to come by it.
        ValueError: if something else is in a set's place, or as `parse_sources`.
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

    Training batches are full and shuffled anew each epoch, in an order that depends on `seed` alone; a run resumed in
    the middle of an epoch goes on with the batches that were left. The other sets keep the order of their files.

    What is given to `train`, `val`, `test` and `predict` is a file (see `read_prompts` for the formats), the name of a
    set, like geneval or t2i_compbench/color/train (`hn prompts list` shows them), the address of a column of a data set
    on the Hub, like hf://yuvalkirstain/pickapic_v2_no_images/train/caption, a list of such, or a mapping from such to
    weights. What is not on this machine is fetched before the work starts; of a data set on the Hub the column alone.

    In `train` a weight says how many times an epoch holds each prompt: {t2i_compbench: 2.0, pickapic_v1: 0.5} gives
    T2I-CompBench's twice and one half of Pick-a-Pic's, the other half in the next epoch (see `hn.data.mix.Part`). What
    an epoch holds depends on `seed` and its number alone, so that a mix resumes exactly too. In the others a weight is
    a whole number of repetitions.

    Args:
        train: prompts to train on.
        val: to validate on.
        test: to test on.
        predict: to generate images for.
        batch_size: training prompts per step and device.
        eval_batch_size: prompts per step and device otherwise; as `batch_size` by default.
        num_workers: processes that read ahead; prompts are in memory, so 0 is best as a rule.
        seed: decides the order of training prompts.
        limit_train: use only so many training prompts, the first ones (before weights); None for all.
        limit_val: likewise.
        limit_test: likewise.
        limit_predict: likewise.
        exclude_eval_prompts: leave the prompts of `val` and `test`, limited or not, out of training, so that what is
            measured was not trained on. Prompts that differ in letter case, spacing or a final full stop are the same.
        deduplicate: keep the first one only of training prompts that are the same; None does so with the prompts of
            named sets (unless the manifest says that repeats are meant) and leaves files as they are.
        filter_unsafe: leave out prompts with a word of data/prompts/unsafe_words.txt; None does so with the sets of
            which the manifest says so, like Pick-a-Pic.
        prompts_folder: where named sets are kept; None for HN_PROMPTS of the environment, else the user's cache folder.

    Attributes:
        datasets: those that were read, by "train", "val", "test" and "predict".
        prefetch_hook: told of each training batch but an epoch's first while the one before it is worked on; set by a
            module that can prepare for it.

    Raises:
        ValueError: for options out of range and names that are not known; in `setup`, for files as `read_prompts` says,
            and if a set that the stage needs is not given or is empty.
        FileNotFoundError: in `setup`, for a file that is missing.
        DownloadError: in `prepare_data` or `setup`, if a named set is not here and cannot be fetched.
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

    def prepare_data(self) -> None:
        """Fetch the named sets that are needed and not here, on one process of each machine while the others wait."""
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
        """The prompts that are trained on, whether or not this process trains; none without `train`.

        Raises:
            ValueError, FileNotFoundError, DownloadError: as `setup`.
        """
        if not self.paths["train"]:
            return []
        return (self.datasets.get("train") or self._training_dataset()).prompts

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
            pin_memory=self._on_cuda,
        )

    @property
    def _on_cuda(self) -> bool:
        """Whether batches go to a CUDA device: if they are pinned, Lightning copies them while it works."""
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
