"""What a comparison has measured so far, on disk, so that an interrupted one can be resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hn.data.download import digest
from hn.data.encodings.fingerprint import weights_versions
from hn.data.prompts import PromptBatch
from hn.evaluation.record import MethodRecord
from hn.hypernets.trained import TRAINED_FILES
from hn.utils.environment import environment
from hn.utils.files import atomic_write, write_json, write_text
from hn.utils.hub import locate_folder
from hn.utils.text import changes, differences

_SETTINGS, _REFERENCE, _GALLERY = "settings.json", "reference", "gallery.json"
_WEIGHTS = "weights"
_SHOWN = 5  # differences that an error lists


class MeasurementCache:
    """Records of methods in a folder, one file each, and the settings they were measured with.

    Args:
        folder: made when there is something to keep.
        settings: all that a measurement depends on, but for what is a method's own; of values that JSON has.
        every: least seconds between two writes of a record that is not finished.

    Raises:
        ValueError: if the folder holds records that were measured with other settings; names what differs.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], every: float = 30.0) -> None:
        self.folder, self.every = folder, every
        self._settings = _as_json(settings)
        self._written = time.monotonic()
        path = folder / _SETTINGS
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            own = {key: value for key, value in self._settings.items() if key != _WEIGHTS or key in kept}
            self._require_equal(kept, own, "")  # earlier versions did not look at weights

    def load(self, name: str, own: Any = None) -> MethodRecord | None:
        """The record of a method so far; None without one.

        Args:
            name: of the method.
            own: settings of this method alone, like a search's.

        Raises:
            ValueError: if it was measured with other ones.
        """
        found = self._read(f"{name}.record")
        if found is None:
            return None
        tensors, facts = found
        kept = facts.pop("own")
        if isinstance(kept, dict) and isinstance(kept.get("weights"), dict):
            kept["weights"].pop("folder", None)  # which earlier versions kept
        self._require_equal(kept, _as_json(own), f"{name}.", f"{name}.record.safetensors there")
        return MethodRecord.of_state(tensors, facts)

    def keep(self, record: MethodRecord, own: Any = None, of_batches: int = 0) -> None:
        """Write a record; one that has not all of `of_batches` batches is written now and then only."""
        if record.batches >= of_batches or time.monotonic() - self._written >= self.every:
            tensors, facts = record.state()
            self._write(f"{record.name}.record", tensors, {**facts, "own": _as_json(own)})

    def load_reference(self) -> dict[str, Tensor] | None:
        """The features that distances are measured against; None if they were not kept."""
        found = self._read(_REFERENCE)
        return None if found is None else found[0]

    def keep_reference(self, features: dict[str, Tensor]) -> None:
        """Write the features [N, D] that distances are measured against, by name."""
        self._write(_REFERENCE, features, {})

    def gallery(self, choose: Callable[[], set[int]]) -> set[int]:
        """Numbers of the prompts whose images are kept: those that were chosen first, however they are grouped now.

        Args:
            choose: gives them.
        """
        path = self.folder / _GALLERY
        if path.is_file():
            return set(json.loads(path.read_text(encoding="utf-8")))
        chosen = choose()
        self._begin()
        write_text(path, json.dumps(sorted(chosen)) + "\n", durable=True)
        return chosen

    def _read(self, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        path = self.folder / f"{stem}.safetensors"
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118

    def _write(self, stem: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self._begin()
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_write(self.folder / f"{stem}.safetensors", durable=True) as temporary:
            save_file(whole, temporary, metadata={"facts": json.dumps(facts)})
        self._written = time.monotonic()

    def _begin(self) -> None:
        """Make the folder, with the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / _SETTINGS
        if not settings.is_file():
            write_json(settings, self._settings, durable=True)

    def _require_equal(self, kept: Any, own: Any, prefix: str, stale: str = "that folder") -> None:
        changed = changes(kept, own, prefix)
        if changed:
            raise ValueError(
                f"{self.folder} has what was measured with other settings: "
                f"{differences({'changed': changed}, _SHOWN)}. "
                f"Go on with the same settings, choose another --run.name, or remove {stale} to measure anew."
            )


def measurement_settings(configuration: Mapping[str, Any], batches: Sequence[PromptBatch]) -> dict[str, Any]:
    """All that the scores of a comparison depend on, but for what is a method's own, for `MeasurementCache`.

    The configuration names the checkpoints of generator, rewards and detector; their versions count too, by the content
    of local files (large ones are sampled) and the commits of those of the Hub.

    Args:
        configuration: of generator, rewards, prompts and precision.
        batches: all prompts; they and their batches count.
    """
    rows = json.dumps([[batch["prompt"], batch["metadata"], batch["index"].tolist()] for batch in batches], default=str)
    return {
        **configuration,
        _WEIGHTS: weights_versions([configuration.get("model"), configuration.get("evaluation")]),
        "prompts": hashlib.sha256(rows.encode()).hexdigest(),
        # Not the commit, which any edit of an experiment's file changes, nor how many cores there are.
        "environment": {name: value for name, value in environment().items() if name in ("packages", "gpu")},
    }


def weights_settings(weights: str) -> dict[str, str]:
    """What the scores of a trained network depend on: the digest of each of its files, wherever they are.

    Args:
        weights: folder or Hub id.

    Raises:
        FileNotFoundError: if there are no weights.
    """
    folder = locate_folder(weights, TRAINED_FILES)
    return {file.name: digest(file, "sha256") for file in sorted(folder.glob("*")) if file.is_file()}


def _as_json(value: Any) -> Any:
    """The value as it is read back."""
    return json.loads(json.dumps(value, default=str))
