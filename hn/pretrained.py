"""Finding pretrained weights, and saying what to do when they are not there."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import (
    constants,
    hf_hub_download,
    is_offline_mode,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, RevisionResolutionError

# The Hub's errors are OSErrors (no such repository, gated, not cached while offline) apart from the last one.
_HUB_ERRORS = (OSError, RevisionResolutionError)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_dtype(name: str) -> torch.dtype:
    """`torch.float32` for "float32"; likewise "float64", "bfloat16" and "float16".

    Raises:
        ValueError: for any other name.
    """
    if name not in _DTYPES:
        raise ValueError(f"Unknown dtype {name!r}; choose one of {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def locate(
    pretrained: str, marker: str | Sequence[str], revision: str | None = None, variant: str | None = None
) -> str:
    """Check that `pretrained` can be loaded, before anything heavy starts.

    Args:
        pretrained: a local folder, or the id of a repository on the Hugging Face Hub.
        marker: the file without which the folder is not what it should be, like "model_index.json"; it may lie in a
            subfolder. Of several names, one has to be there.
        revision: branch, tag or commit on the Hub.
        variant: the variant of the weight files, like "fp16"; only for the advice in the error.

    Returns:
        What to hand to `from_pretrained`: a folder, or the id. Without network a cached repository is given by folder,
        for libraries would try the Hub again and again before they look there.

    Raises:
        FileNotFoundError: if it is neither a folder holding `marker`, nor in the local cache, nor to be had from the
            Hub. The message says what to do.
    """
    markers = [marker] if isinstance(marker, str) else list(marker)
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in markers):
            raise FileNotFoundError(_incomplete_folder(folder, markers))
        return str(folder)
    if not _may_be_hub_id(pretrained):
        raise FileNotFoundError(f"There is no folder {folder}.{_advice_for_folder(folder)}")
    if not _hub_is_reachable():
        for name in markers:
            cached = try_to_load_from_cache(pretrained, name, revision=revision)
            if isinstance(cached, str):
                return str(Path(cached).parents[len(Path(name).parents) - 1])
        raise FileNotFoundError(_missing_repository(pretrained, revision, variant))
    for name in markers:
        try:
            hf_hub_download(pretrained, name, revision=revision)
            return pretrained
        except _HUB_ERRORS as caught:
            error = caught
    raise FileNotFoundError(_missing_repository(pretrained, revision, variant, error)) from error


def locate_folder(
    pretrained: str,
    marker: str | Sequence[str],
    revision: str | None = None,
    patterns: Sequence[str] = ("*.json", "*.safetensors"),
) -> Path:
    """Like `locate`, for small repositories: of a Hub id the files that fit `patterns` are downloaded.

    Returns:
        The folder.
    """
    found = locate(pretrained, marker, revision)
    if Path(found).is_dir():
        return Path(found)
    with explain_missing(pretrained, revision):
        return Path(snapshot_download(pretrained, revision=revision, allow_patterns=list(patterns)))


def locate_file(pretrained: str, names: str | Sequence[str], revision: str | None = None) -> Path:
    """Find one weight file; of a Hub repository that file alone is downloaded.

    Args:
        pretrained: a local folder, or the id of a repository on the Hugging Face Hub.
        names: the file's name; of several names the first one that is there is taken.
        revision: branch, tag or commit on the Hub.

    Returns:
        The local file.

    Raises:
        FileNotFoundError: if there is none in the folder, the local cache or the Hub. The message says what to do.
    """
    names = [names] if isinstance(names, str) else list(names)
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise FileNotFoundError(_incomplete_folder(folder, names, f"Put {' or '.join(names)} there."))
    if not _may_be_hub_id(pretrained):
        raise FileNotFoundError(f"There is no folder {folder}.{_advice_for_folder(folder)}")
    for name in names:
        cached = try_to_load_from_cache(pretrained, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    if not _hub_is_reachable():
        raise FileNotFoundError(_missing_repository(pretrained, revision, file=names[0]))
    for name in names:
        try:
            return Path(hf_hub_download(pretrained, name, revision=revision))
        except _HUB_ERRORS as caught:
            error = caught
    raise FileNotFoundError(_missing_repository(pretrained, revision, error=error, file=names[0])) from error


@contextmanager
def explain_missing(pretrained: str, revision: str | None = None, variant: str | None = None) -> Iterator[None]:
    """Turn what loading a Hub repository raises when files are missing into the same clear FileNotFoundError.

    `locate` fetches one small file only; an interrupted download shows when the weights are loaded.
    """
    try:
        yield
    except _HUB_ERRORS as error:
        if Path(pretrained).expanduser().is_dir():
            raise  # the library's own message names the missing file
        raise FileNotFoundError(_missing_repository(pretrained, revision, variant, error)) from error


def _hub_is_reachable() -> bool:
    """One request, no retries: whether the Hub answers, whatever it says."""
    if is_offline_mode():
        return False
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except HTTPError:
        return True
    except OSError:  # no network, no such host, a timeout
        return False
    return True


def _may_be_hub_id(pretrained: str) -> bool:
    return _HUB_ID.fullmatch(pretrained) is not None and not _is_miniature(Path(pretrained))


def _is_miniature(path: Path) -> bool:
    return "miniature" in path.parts


def _advice_for_folder(folder: Path) -> str:
    if _is_miniature(folder):
        return " The miniature's checkpoints are built by its recipe: run `make miniature`."
    return " Check the path, or give the id of a repository on the Hugging Face Hub."


def _incomplete_folder(folder: Path, markers: Sequence[str], hint: str | None = None) -> str:
    marker = " or ".join(markers)
    names = sorted(path.name for path in folder.iterdir())
    held = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"
    inside = [path.parent for name in markers for path in sorted(folder.glob(f"*/{name}"))]
    if inside:
        advice = f" Did you mean {inside[0]}?"
    elif _is_miniature(folder):
        advice = _advice_for_folder(folder)
    else:
        advice = f" {hint or f'Point to the folder that `save_pretrained` wrote {marker} to.'}"
    return f"{folder} has no {marker}; it holds {held}.{advice}"


def _missing_repository(
    pretrained: str,
    revision: str | None,
    variant: str | None = None,
    error: Exception | None = None,
    file: str | None = None,
) -> str:
    command = f"hf download {pretrained}" if file is None else f"hf download {pretrained} {file}"
    if revision is not None:
        command += f" --revision {revision}"
    if variant is not None:
        command += f' --include "*.json" --include "*.txt" --include "*.model" --include "*.{variant}*"'
    if isinstance(error, HfHubHTTPError | RevisionResolutionError):
        reason = f"the Hub refused it ({type(error).__name__})"
    elif error is not None and file is None:
        reason = "some of its files are not in the local cache"
    else:
        reason = "it is not in the local cache and the Hub cannot be reached"
    return (
        f"Cannot load {pretrained!r}: there is no such folder, and {reason}.\n"
        f"On a machine with network access run:  {command}\n"
        f"The cache in use is {constants.HF_HUB_CACHE}; set HF_HOME to use another one, for example one copied here.\n"
        f"If the repository is gated, accept its licence at https://huggingface.co/{pretrained} and run "
        f"`hf auth login` first."
    )
