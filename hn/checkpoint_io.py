"""Reading a training checkpoint, with an error that a user can do something about."""

from __future__ import annotations

import pickle
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

# What torch says of a file of another kind, or one that was cut short.
_UNREADABLE = (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, pickle.UnpicklingError)


class TrainingCheckpointIO(TorchCheckpointIO):
    """Lightning's own reader and writer of checkpoint files, but for the error."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a checkpoint file holds.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no training checkpoint, or not a whole one.
        """
        try:
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except _UNREADABLE as error:
            raise ValueError(_message(path)) from error
        if not isinstance(checkpoint, dict) or not {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys():
            raise ValueError(_message(path))
        return checkpoint


def _message(path: Any) -> str:
    return (
        f"{path} cannot be read as a training checkpoint: it is a file of another kind, or damaged. Give a .ckpt file "
        "of a run, `last` or `best`, or leave --ckpt_path out; saved weights (a folder with .safetensors) are no "
        "checkpoint to continue from."
    )
