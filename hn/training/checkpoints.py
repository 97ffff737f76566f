"""Writing a training checkpoint in one step, and reading one, with an error that a user can do something about."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hn.utils.files import atomic_write, remove_temporary_files
from hn.utils.weights import UNREADABLE

_HANDED_BACK = ".temp.ckpt"  # Lightning's name for the weights that spawned processes give the one that started them
_KEYS = {"state_dict", "pytorch-lightning_version", "global_step"}


class TrainingCheckpointIO(TorchCheckpointIO):
    """Lightning's own reader and writer of checkpoint files, for files that are whole or not there.

    Lightning writes to the folder of temporary files and moves the file from there; onto another file system that is a
    copy, and a run killed meanwhile is left with half a checkpoint. Here the file is written beside its place, and is
    on the disk before it takes it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; the one that was there stays until the new one is whole.

        Raises:
            TypeError: if there are `storage_options`, as Lightning.
        """
        if storage_options is not None or "://" in str(path):  # a store elsewhere, which Lightning knows to write to
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(path.parent, path.name)  # of a run that was killed: checkpoints are large
        with atomic_write(path, durable=True) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """What a checkpoint file holds: tensors and plain values; nothing in the file is run.

        Args:
            path: the file.
            map_location: as in `torch.load`; tensors stay on the CPU by default.
            weights_only: False reads any Python object, of a file that is trusted.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no training checkpoint, or not a whole one; names the run's checkpoints that are.
        """
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only is not False)
        except (FileNotFoundError, PermissionError):
            raise
        except (*UNREADABLE, OSError) as error:
            raise ValueError(_message(path, _reason(Path(path), error))) from error
        if Path(path).name != _HANDED_BACK and not _is_of_a_training(checkpoint):
            raise ValueError(_message(path, "it holds weights or other values, but no state of a training"))
        return checkpoint


def peek_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint file holds, whose tensors are read from it when they are looked at.

    Raises:
        FileNotFoundError, ValueError: as `TrainingCheckpointIO.load_checkpoint`.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (*UNREADABLE, OSError):
        checkpoint = None
    if not _is_of_a_training(checkpoint):
        return TrainingCheckpointIO().load_checkpoint(path)  # which says why not
    return checkpoint


def follow_best_checkpoints(callback: ModelCheckpoint, state: dict[str, Any], is_global_zero: bool = True) -> None:
    """Have a `ModelCheckpoint` know its best checkpoints and scores again where a run continues in another folder than
    the one that its checkpoint names: a run that was moved or copied, or whose folder is spelled in another way.

    Lightning compares the folders as texts, and forgets the scores if they differ. What is left in the other folder
    alone, of a run that continues under another name, is copied.

    Args:
        callback: with its folder, since `setup`.
        state: of the callback in the checkpoint; changed in place, unless the best checkpoint is nowhere.
        is_global_zero: whether this process copies files.
    """
    before, now = state.get("dirpath"), callback.dirpath
    best = state.get("best_model_path")
    if not before or not now or before == now or not best:
        return

    def follow(path: str) -> str:
        is_below = path.startswith(f"{before}{os.sep}")
        return f"{now}{path.removeprefix(str(before))}" if is_below else path

    for path in {best, *state.get("best_k_models", {})}:
        there, here = Path(path), Path(follow(path))
        if not here.exists() and not there.exists():
            return
        if is_global_zero and not here.exists() and there.is_file():
            here.parent.mkdir(parents=True, exist_ok=True)
            keep_also(there, here)
    paths = ("best_model_path", "kth_best_model_path", "last_model_path")
    state |= {name: follow(state[name]) for name in paths if state.get(name)}
    state["best_k_models"] = {follow(path): score for path, score in state.get("best_k_models", {}).items()}
    state["dirpath"] = now


def keep_also(path: Path, name: Path) -> None:
    """Have a file under a second name too, which stays with its content when the first one's file is replaced."""
    with atomic_write(name) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)


def usable_checkpoints(folder: Path, without: Path) -> dict[Path, int]:
    """The checkpoints in a folder that can be read, the newest update first, and the updates they are of.

    Args:
        folder: of `.ckpt` files.
        without: a file to leave out.
    """
    found = {}
    for path in sorted(folder.glob("*.ckpt")):
        if path.resolve() == without.resolve():
            continue
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except (*UNREADABLE, OSError):
            continue
        if _is_of_a_training(checkpoint):
            found[path] = checkpoint["global_step"]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _is_of_a_training(checkpoint: Any) -> bool:
    return isinstance(checkpoint, dict) and checkpoint.keys() >= _KEYS


def _reason(path: Path, error: BaseException) -> str:
    start = path.open("rb").read(2) if path.is_file() else b""
    if path.is_file() and not start:
        return "it is empty"
    if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
        return "it is a file of another kind, or holds Python objects that would run code when they are read"
    # What torch writes is a zip archive, whose list of contents is at its end.
    return "it was cut short or is damaged" if start == b"PK" else "it is a file of another kind"


def _message(path: Any, reason: str) -> str:
    others = usable_checkpoints(Path(path).parent, Path(path))
    listed = ", ".join(f"{other} (update {step})" for other, step in others.items())
    offer = f" Whole checkpoints beside it: {listed}; continue with --ckpt_path and one of these." if others else ""
    return (
        f"{path} cannot be read as a training checkpoint: {reason}.{offer} Give a .ckpt file of a run, `last`, "
        "`previous` or `best`, or leave --ckpt_path out; saved weights (a folder with .safetensors) are no checkpoint "
        "to continue from."
    )
