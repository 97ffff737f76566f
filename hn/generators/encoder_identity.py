"""What decides how a pipeline encodes prompts: by this, files of conditioning are known to be right or stale."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import try_to_load_from_cache

from hn.class_path import class_path
from hn.generators.families import Family
from hn.generators.pipeline_files import PipelineFiles

WHOLE = 1 << 26  # bytes: files up to this size are read whole
SAMPLES, SAMPLE = 64, 1 << 16  # of larger ones so many blocks of so many bytes, evenly spaced


def encoder_identity(files: PipelineFiles, family: Family) -> dict[str, Any]:
    """All on which a prompt's conditioning depends, in JSON's types.

    Where the weights come from is a commit on the Hub, or for a folder what is in it: a copy elsewhere is the same, a
    change of a tokenizer's file or of the text encoder's weights is not. LoRAs that are fused count whatever networks
    they are for. Networks in the place of the pipeline's own do not: text encoders cannot be replaced.

    Args:
        files: the pipeline's.
        family: the pipeline's facts.
    """
    parts = files.text_parts(family)
    return {
        "pipeline": files.index["_class_name"],
        "weights": _version(files.pretrained, files.found, files.revision, DiffusionPipeline.config_name, parts),
        "variant": files.variant,
        "dtype": str(files.dtype).removeprefix("torch."),
        "family": class_path(type(family)),
        "options": _plain(family.encoding_settings()),
        "fused_loras": [
            {
                "weights": _version(lora.pretrained, lora.locate(), lora.revision, lora.file, [lora.file]),
                "file": lora.file,
                "scale": lora.scale,
            }
            for lora in files.fuse_loras
        ],
    }


def fingerprint(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of the names, sizes and content of files, in hexadecimal; of large ones, of blocks all over the file.

    Args:
        folder: where they are.
        names: files, or folders of which all files count, those below them too; what is missing is left out.
    """
    paths = [path for name in names for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    total = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        total.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                total.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for sample in range(SAMPLES):
                file.seek(sample * (size - SAMPLE) // (SAMPLES - 1))
                total.update(file.read(SAMPLE))
    return total.hexdigest()


def _version(pretrained: str, found: str, revision: str | None, marker: str, names: list[str]) -> str:
    """A commit of a repository, known by where its file `marker` is cached, or the fingerprint of a folder's files."""
    if not Path(pretrained).expanduser().is_dir():
        cached = try_to_load_from_cache(pretrained, marker, revision=revision)
        if isinstance(cached, str):
            return f"{pretrained}@{Path(cached).parents[len(Path(marker).parts) - 1].name}"
    if Path(found).is_dir():
        return f"sha256:{fingerprint(Path(found), names)}"
    return f"{pretrained}@{revision}"


def _plain(value: Any) -> Any:
    """The value in JSON's types, so that it equals itself when read again."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)
