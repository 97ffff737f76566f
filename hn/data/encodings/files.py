"""What text encoders make of prompts, in files: written once, read as often as training wants, without the encoders."""

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

from hn.utils.files import atomic_write, remove_temporary_files, write_json

Tensors = dict[str, Tensor]
"""Of one prompt, [1, ...] each, by name: a generator's conditioning, or the text features of a reward."""

log = logging.getLogger(__name__)

ENVIRONMENT = "HN_CONDITIONING"

FORMAT = "hn prompt tensors 1"

HEADER = "hn"

FINGERPRINT_FILE = "encoder.json"

EMBED = "`hn embed --config EXPERIMENT.yaml`"

_ELSEWHERE = f"choose another folder (the option `cache`, or {ENVIRONMENT} in the environment)"


def default_folder() -> Path:
    """HN_CONDITIONING of the environment or, without it, hn/conditioning in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(ENVIRONMENT) or Path(cache, "hn", "conditioning")).expanduser()


class PromptFiles:
    """Tensors of prompts as one set of text encoders, with its options, gives them; bit for bit.

    Everything with the same `fingerprint` is in one folder below `root`, named by the fingerprint's hash: whatever
    changes in the encoders leads to another folder, so that stale values are never read. In it are `encoder.json`, the
    fingerprint, and shards `00000.safetensors`, which are memory-mapped. A shard holds a tensor
    `<hash of the prompt>/<name>` for each of a prompt's tensors, without its rows of zeros at the end (padding, which
    is put back), and the fingerprint's hash. A shard is put in its place in one step: an interrupted run leaves whole
    ones, and the next one continues.

    Args:
        root: folder for the tensors of all generators and rewards; True for `default_folder()`.
        fingerprint: all on which the tensors depend, in JSON's types; its "class" says of what kind the encoders are.
        contents: what the tensors are called in messages.
    """

    def __init__(
        self, root: str | Path | Literal[True], fingerprint: Mapping[str, Any], contents: str = "conditioning"
    ):
        self.root = default_folder() if root is True else Path(root).expanduser()
        self.contents = contents
        self.fingerprint = dict(fingerprint)
        canonical = json.dumps({"format": FORMAT, **self.fingerprint}, sort_keys=True)
        self.key = hashlib.sha256(canonical.encode()).hexdigest()[:32]
        self.folder = self.root / self.key
        self.reopen()

    def __len__(self) -> int:
        return len(self._places())

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """Those of the prompts that are not in the files, each once.

        Raises:
            ValueError: if a shard is damaged or not of these encoders.
        """
        places = self._places()
        return [prompt for prompt in dict.fromkeys(prompts) if prompt_key(prompt) not in places]

    def require(self, prompts: Iterable[str]) -> None:
        """Raises:
        ValueError: if some of the prompts are not in the files, for where text encoders are not loaded; says what to
            do. Also as `missing`.
        """
        missing = self.missing(prompts)
        if missing:
            count = f" and {len(missing) - 1} more prompts are" if len(missing) > 1 else " is"
            raise ValueError(
                f"{missing[0]!r}{count} not in {self.folder}, and the text encoders are not loaded, as `cache` asks "
                f"for: {EMBED} adds an experiment's prompts; without `cache` any prompt is encoded."
            )

    def read(self, prompt: str) -> Tensors:
        """A prompt's tensors, [1, ...] on the CPU as the encoders gave them.

        Raises:
            KeyError: if it is not in the files.
            ValueError: if a shard is damaged or not of these encoders.
        """
        key = prompt_key(prompt)
        path = self._places()[key]
        if path not in self._opened:
            self._opened[path] = safe_open(path, framework="pt"), read_header(path, self.key)[1]
        file, shapes = self._opened[path]
        tensors = {}
        for name, shape in shapes.items():
            kept = file.get_tensor(f"{key}/{name}")
            tensors[name] = kept.new_zeros((1, *shape))  # with the padding
            filled = slice(len(kept)) if shape else ...
            tensors[name][0][filled] = kept
        return tensors

    def write(self, samples: Mapping[str, Tensors]) -> Path:
        """Add a shard with the tensors of prompts, [1, N, ...] each; the file.

        Raises:
            OSError: if it cannot be written, the disk being full for one; says what to do. Nothing half-written stays.
        """
        first = next(iter(samples.values()))
        shapes = {name: list(tensor.shape[1:]) for name, tensor in first.items()}
        tensors = {
            f"{prompt_key(prompt)}/{name}": without_padding(tensor)
            for prompt, sample in samples.items()
            for name, tensor in sample.items()
        }
        # One entry: the order of several would not always be the same, nor then the file.
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
        """Held while writing, so that of several processes one does the work.

        Raises:
            OSError: if the folder cannot be made.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f".{self.key}.lock")

    def reopen(self) -> None:
        """Forget what was seen of the files: look again, for other processes may have written."""
        self._place_of: dict[str, Path] | None = None
        self._opened: dict[Path, tuple[Any, dict[str, list[int]]]] = {}

    def remove_damaged(self) -> list[Path]:
        """Delete shards that are truncated or not of these encoders, and what an interrupted run left; the shards."""
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
        OSError: if the disk has fewer bytes free than are needed.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise OSError(
                f"About {size_in_words(needed)} are needed in {self.root}, where {size_in_words(free)} are free. Make "
                f"room, or {_ELSEWHERE}."
            )

    def others(self) -> list[str]:
        """What tensors below `root` of the same kind of encoders differ in from these, a line each."""
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
        """Say that the encoders had to be loaded, and in what the tensors differ that there are."""
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
        """Which shard a prompt's tensors are in, by the prompt's key."""
        if self._place_of is None:
            headers = ((path, read_header(path, self.key)[0]) for path in self._shards())
            self._place_of = {name.partition("/")[0]: path for path, names in headers for name in names}
        return self._place_of

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": {}}  # what is mapped into memory stays with its process


def prompt_key(prompt: str) -> str:
    """What stands for a prompt in the files: 128 bits of its SHA-256."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def without_padding(tensor: Tensor) -> Tensor:
    """[M, ...] of a sample [1, N, ...] on the CPU: without the rows at the end that are all zero, M from 0 to N.

    A number, [1], has no rows and is given as it is, [].
    """
    rows = tensor[0].detach().cpu()
    if not rows.ndim:
        return rows.clone()
    filled = rows.reshape(len(rows), -1).ne(0).any(1).nonzero()
    return rows[: int(filled[-1]) + 1 if len(filled) else 0].clone(memory_format=torch.contiguous_format)


def read_header(path: Path, key: str) -> tuple[Sequence[str], dict[str, list[int]]]:
    """Names of a shard's tensors, and the tensors' shapes without the batch and before padding was left out.

    Args:
        path: the shard.
        key: of the encoders' fingerprint.

    Raises:
        ValueError: if it is truncated, or not of these encoders; says what to do.
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
    """Bytes for people: "3.2 GB"."""
    unit, factor = next((pair for pair in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if n >= pair[1]), ("bytes", 1))
    return f"{n / factor:.3g} {unit}"
