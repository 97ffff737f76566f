"""Encodings of prompts in files: written once, then read without loading the text encoders."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hn.utils.files import atomic_write, cache_folder, expand_home, remove_temporary_files, write_json

Tensors = dict[str, Tensor]
"""Tensors [1, ...] of one prompt by name: the conditioning of a generator, or the text features of a reward."""

log = logging.getLogger(__name__)

ENVIRONMENT = "HN_CONDITIONING"

FORMAT = "hn prompt tensors 1"

HEADER = "hn"

FINGERPRINT_FILE = "encoder.json"

EMBED = "`hn embed --config EXPERIMENT.yaml`"

_ELSEWHERE = f"choose another folder (the option `cache`, or {ENVIRONMENT} in the environment)"


def default_folder() -> Path:
    """The environment variable HN_CONDITIONING, or else hn/conditioning in the user's cache folder."""
    return expand_home(os.environ.get(ENVIRONMENT) or cache_folder("conditioning"))


class PromptFiles:
    """Files of the tensors that text encoders computed for prompts; what is read equals what was written, bit for bit.

    All tensors of the same `fingerprint` are in one subfolder of `root`, named by its hash. A change of the encoders
    leads to another subfolder, so outdated tensors are never read. The subfolder contains the fingerprint,
    `encoder.json`, and memory-mapped shards `00000.safetensors`. A shard has a tensor `<hash of the prompt>/<name>` for
    each tensor of a prompt, without the rows of zeros at its end (padding, which `read` restores), and the hash of the
    fingerprint. Shards are written atomically: after an interruption, the next run continues after the last shard.

    Args:
        root: folder for the tensors of all generators and rewards; True for `default_folder()`.
        fingerprint: JSON values that determine the tensors; "class" is the kind of the encoders.
        contents: name of the tensors in messages.
    """

    def __init__(
        self, root: str | Path | Literal[True], fingerprint: Mapping[str, Any], contents: str = "conditioning"
    ):
        self.root = default_folder() if root is True else expand_home(root)
        self.contents = contents
        self.fingerprint = dict(fingerprint)
        canonical = json.dumps({"format": FORMAT, **self.fingerprint}, sort_keys=True)
        self.key = hashlib.sha256(canonical.encode()).hexdigest()[:32]
        self.folder = self.root / self.key
        self.reopen()

    def __len__(self) -> int:
        return len(self._places())

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """The prompts that are not in the files, without repetitions.

        Raises:
            ValueError: if a shard is damaged or was written by other encoders.
        """
        places = self._places()
        return [prompt for prompt in dict.fromkeys(prompts) if prompt_key(prompt) not in places]

    def require(self, prompts: Iterable[str]) -> None:
        """Raises:
        ValueError: if some prompts are not in the files (called where no text encoders are loaded), or as `missing`.
        """
        missing = self.missing(prompts)
        if missing:
            count = f" and {len(missing) - 1} more prompts are" if len(missing) > 1 else " is"
            raise ValueError(
                f"{missing[0]!r}{count} not in {self.folder}, and the text encoders are not loaded, as `cache` asks "
                f"for: {EMBED} adds an experiment's prompts; without `cache` any prompt is encoded."
            )

    def read(self, prompt: str) -> Tensors:
        """The tensors [1, ...] of a prompt by name, on the CPU, equal to the output of the encoders.

        Raises:
            KeyError: if the prompt is not in the files.
            ValueError: if a shard is damaged or was written by other encoders.
        """
        key = prompt_key(prompt)
        path = self._places()[key]
        if path not in self._opened:
            self._opened[path] = safe_open(path, framework="pt"), read_header(path, self.key)[1]
        file, shapes = self._opened[path]
        tensors = {}
        for name, shape in shapes.items():
            kept = file.get_tensor(f"{key}/{name}")
            tensors[name] = kept.new_zeros((1, *shape))  # restores the padding
            filled = slice(len(kept)) if shape else ...
            tensors[name][0][filled] = kept
        return tensors

    def write(self, samples: Mapping[str, Tensors]) -> Path:
        """Write the tensors of prompts, [1, N, ...] each, to a new shard.

        Returns:
            The file.

        Raises:
            OSError: if it cannot be written, for example because the disk is full; says what to do. No partial file is
                left.
        """
        first = next(iter(samples.values()))
        shapes = {name: list(tensor.shape[1:]) for name, tensor in first.items()}
        tensors = {
            f"{prompt_key(prompt)}/{name}": without_padding(tensor)
            for prompt, sample in samples.items()
            for name, tensor in sample.items()
        }
        # One entry: the order of several is not deterministic, and would change the bytes of the file.
        about = {"format": FORMAT, "encoder": self.key, "shapes": shapes}
        content = save(tensors, {HEADER: json.dumps(about)})
        number = 1 + max((int(path.stem) for path in self._shards()), default=-1)
        path = self.folder / f"{number:05d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / FINGERPRINT_FILE).is_file():
                write_json(self.folder / FINGERPRINT_FILE, self.fingerprint, durable=True)
            with atomic_write(path, durable=True) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise OSError(
                f"The {self.contents} of {len(samples)} prompts cannot be written to {path}: {error.strerror or error}."
                f" Nothing half-written is left, and the shards before it are kept: make room, or {_ELSEWHERE}, and "
                "run the command again."
            ) from error
        self.reopen()
        return path

    def lock(self) -> FileLock:
        """The lock to hold while writing, so that only one of several processes encodes.

        Raises:
            OSError: if the folder cannot be created.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f".{self.key}.lock")

    def reopen(self) -> None:
        """List the files again at the next access: another process may have written some."""
        self._place_of: dict[str, Path] | None = None
        self._opened: dict[Path, tuple[Any, dict[str, list[int]]]] = {}

    def remove_damaged(self) -> list[Path]:
        """Delete temporary files, and shards that are truncated or of other encoders; returns the deleted shards."""
        removed = []
        for path in self._shards():
            try:
                read_header(path, self.key)
            except ValueError as error:
                log.warning("%s It is written anew.", error)
                path.unlink()
                removed.append(path)
        remove_temporary_files(self.folder)
        self.reopen()
        return removed

    def require_space(self, needed: int) -> None:
        """Raises:
        OSError: if the disk has fewer than `needed` bytes free.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise OSError(
                f"About {size_in_words(needed)} are needed in {self.root}, where {size_in_words(free)} are free. Make "
                f"room, or {_ELSEWHERE}."
            )

    def others(self) -> list[str]:
        """Folders below `root` of the same kind of encoders, and how their identities differ; one line each."""
        found = []
        for file in sorted(self.root.glob(f"*/{FINGERPRINT_FILE}")):
            try:
                other = json.loads(file.read_text())
            except (OSError, ValueError):
                continue
            if file.parent != self.folder and other.get("class") == self.fingerprint.get("class"):
                names = [name for name in self.fingerprint if other.get(name) != self.fingerprint[name]]
                found.append(f"{file.parent} differs in {', '.join(names)}")
        return found

    def warn_of_absence(self) -> None:
        """Log that the text encoders have to be loaded, and how the existing files differ."""
        log.warning(
            "No %s of these text encoders in %s, so they are loaded; %s writes what is missing.%s",
            self.contents,
            self.root,
            EMBED,
            "".join(f"\n  {line}" for line in self.others()),
        )

    def _shards(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.safetensors") if path.stem.isdecimal())

    def _places(self) -> dict[str, Path]:
        """The shard of each prompt, by `prompt_key`."""
        if self._place_of is None:
            headers = ((path, read_header(path, self.key)[0]) for path in self._shards())
            self._place_of = {name.partition("/")[0]: path for path, names in headers for name in names}
        return self._place_of

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": {}}  # memory maps are not passed to other processes


def prompt_key(prompt: str) -> str:
    """The name of a prompt in the files: 128 bits of its SHA-256."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def without_padding(tensor: Tensor) -> Tensor:
    """A copy [M, ...] of a sample [1, N, ...] on the CPU, without the rows of zeros at its end (0 <= M <= N).

    A scalar, [1], has no rows and is returned as [].
    """
    rows = tensor[0].detach().cpu()
    if not rows.ndim:
        return rows.clone()
    filled = rows.reshape(len(rows), -1).ne(0).any(1).nonzero()
    return rows[: int(filled[-1]) + 1 if len(filled) else 0].clone(memory_format=torch.contiguous_format)


def read_header(path: Path, key: str) -> tuple[Sequence[str], dict[str, list[int]]]:
    """Names of the tensors in a shard, and their shapes without the batch dimension and with padding.

    Args:
        path: the shard.
        key: hash of the encoders' fingerprint.

    Raises:
        ValueError: if the shard is truncated or was written by other encoders; says what to do.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header, names = file.metadata() or {}, list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, perhaps truncated ({error}). {EMBED} replaces it.") from error
    about = json.loads(header.get(HEADER, "{}"))
    if (about.get("format"), about.get("encoder")) != (FORMAT, key):
        raise ValueError(
            f"{path} was not written by these text encoders: it was put there from elsewhere. {EMBED} replaces it."
        )
    return names, about["shapes"]


def size_in_words(n: float) -> str:
    """A number of bytes with a unit: "3.2 GB"."""
    unit, factor = next((pair for pair in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if n >= pair[1]), ("bytes", 1))
    return f"{n / factor:.3g} {unit}"
