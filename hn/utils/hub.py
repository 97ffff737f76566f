"""Finding pretrained weights, locally or on the Hugging Face Hub, with errors that tell how to get missing ones."""

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import (
    constants,
    hf_hub_download,
    is_offline_mode,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from hn.utils.class_path import import_class
from hn.utils.files import expand_home

# The Hub's errors are OSErrors (no such repository, gated, not cached while offline) apart from the last one.
_HUB_ERRORS = (OSError, RevisionResolutionError)

_HUB_REFUSALS = (HfHubHTTPError, RevisionResolutionError)

_REASONS = (
    (GatedRepoError, ": it is gated, and you are not logged in or have no access yet"),
    (RepositoryNotFoundError, ": there is no such repository, or it is private"),
    (RevisionNotFoundError, ": it has no such revision"),
    (EntryNotFoundError, ": it has no such file, so it is something else than is wanted here"),
)

_MAKE_MINIATURE = " The miniature's checkpoints are built by its recipe: run `make miniature`."

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

TOKENIZER_FILES = ("*.json", "*.txt")


@dataclass(frozen=True)
class Repository:
    """Files of a repository on the Hugging Face Hub.

    Attributes:
        name: its id.
        revision: branch, tag or commit.
        variant: variant of the weight files, like "fp16".
        files: the only file needed, or a pattern like "unet/*", or several patterns; all files if not given.
    """

    name: str
    revision: str | None = None
    variant: str | None = None
    files: str | tuple[str, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all files are needed."""
        return self.variant is None and self.files is None

    @property
    def command(self) -> str:
        """The shell command that downloads the files."""
        name, patterns = self.name, []
        if isinstance(self.files, tuple):
            patterns = list(self.files)
        elif self.files is not None and "*" not in self.files:
            name += f" {self.files}"
        elif self.files is not None:
            patterns = [self.files]
        elif self.variant is not None:
            patterns = ["*.json", "*.txt", "*.model", f"*.{self.variant}*"]
        revision = "" if self.revision is None else f" --revision {self.revision}"
        return f"hf download {name}{revision}" + "".join(f' --include "{pattern}"' for pattern in patterns)


def locate(
    pretrained: str,
    marker: str | Sequence[str],
    revision: str | None = None,
    variant: str | None = None,
    files: str | None = None,
) -> str:
    """Check that `pretrained` can be loaded, before expensive work starts.

    Args:
        pretrained: a local folder, or the id of a repository on the Hugging Face Hub.
        marker: a file that must exist, like "model_index.json"; it may be in a subfolder. Of several names, one must
            exist.
        revision: branch, tag or commit on the Hub.
        variant: the variant of the weight files, like "fp16"; used in the error message only.
        files: the only file needed, or a pattern like "unet/*"; used in the error message only.

    Returns:
        The argument for `from_pretrained`: a folder, or the Hub id. Without network it is the folder of a cached
        repository, since libraries retry the Hub several times before they use the cache.

    Raises:
        FileNotFoundError: if it is neither a folder with `marker`, nor in the local cache, nor on the Hub. The message
            says what to do.
    """
    markers = [marker] if isinstance(marker, str) else list(marker)
    folder = _local_folder(pretrained, markers)
    if folder is not None:
        return str(folder)
    repository = Repository(pretrained, revision, variant, files)
    if _hub_is_reachable():
        _download_first(repository, markers)
        return pretrained
    found = _first_cached(repository, markers)
    if found is None:
        incomplete = FileNotFoundError(f"no {' or '.join(markers)}") if is_cached(repository) else None
        raise FileNotFoundError(missing_message([repository], incomplete))
    file, name = found
    return str(file.parents[len(Path(name).parents) - 1])


def locate_folder(
    pretrained: str,
    marker: str | Sequence[str],
    revision: str | None = None,
    patterns: Sequence[str] = ("*.json", "*.safetensors"),
) -> Path:
    """Like `locate`, for small repositories: all files that match `patterns` are downloaded.

    Returns:
        The folder.
    """
    found = locate(pretrained, marker, revision)
    if Path(found).is_dir():
        return Path(found)
    with explain_missing(pretrained, revision):
        return Path(snapshot_download(pretrained, revision=revision, allow_patterns=list(patterns)))


def locate_tokenizer(pretrained: str, vocabulary: Sequence[str], revision: str | None = None) -> str:
    """Like `locate`, for tokenizers: where the vocabulary is missing, libraries create an empty tokenizer silently.

    Args:
        pretrained: a local folder, or the id of a repository on the Hugging Face Hub.
        vocabulary: files of the vocabulary, all needed unless there is a tokenizer.json.
        revision: branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: if it is no tokenizer, or one of these files is missing; says what to do.
    """
    found = locate(pretrained, "tokenizer_config.json", revision)
    with explain_missing(pretrained, revision):
        for name in vocabulary:
            locate(found, ("tokenizer.json", name), revision)
    return found


def locate_file(pretrained: str, names: str | Sequence[str], revision: str | None = None) -> Path:
    """Find one weight file; only that file of a Hub repository is downloaded.

    Args:
        pretrained: a local folder, or the id of a repository on the Hugging Face Hub.
        names: name of the file; of several names, the first that exists is used.
        revision: branch, tag or commit on the Hub.

    Returns:
        The local file.

    Raises:
        FileNotFoundError: if there is none in the folder, the local cache or the Hub. The message says what to do.
    """
    names = [names] if isinstance(names, str) else list(names)
    folder = _local_folder(pretrained, names, f"Put {' or '.join(names)} there.")
    if folder is not None:
        return next(folder / name for name in names if (folder / name).is_file())
    repository = Repository(pretrained, revision, files=names[0])
    found = _first_cached(repository, names)
    if found is not None:
        return found[0]
    if not _hub_is_reachable():
        raise FileNotFoundError(missing_message([repository]))
    return Path(_download_first(repository, names))


@contextmanager
def explain_missing(
    pretrained: str, revision: str | None = None, variant: str | None = None, files: str | None = None
) -> Iterator[None]:
    """Convert errors of loading a Hub repository with missing files to the FileNotFoundError that `locate` raises.

    `locate` looks for one small file only, so an incomplete download is noticed when the weights are loaded.
    """
    try:
        yield
    except _HUB_ERRORS as error:
        if expand_home(pretrained).is_dir():
            raise  # the library's own message names the missing file
        repository = Repository(pretrained, revision, variant, files)
        raise FileNotFoundError(missing_message([repository], error)) from error


def repositories_in(content: Any) -> Iterator[Repository]:
    """The Hub repositories in a configuration: the values of "pretrained" (with "revision", "variant", "subfolder" and
    "file" next to it), "tokenizer" and "processor" that are not existing folders. A class with a classmethod
    `repositories`, like a reward, lists the repositories of its arguments itself.

    Args:
        content: mappings, lists and plain values, as read from YAML; arguments of classes include their defaults.
    """
    if isinstance(content, Mapping) and (describe := _own_description(content.get("class_path"))) is not None:
        yield from describe(content.get("init_args", {}))
        return
    if isinstance(content, Mapping):
        name, file, subfolder = (content.get(key) for key in ("pretrained", "file", "subfolder"))
        if _is_repository(name):
            files = f"{subfolder}/{file or '*'}" if subfolder else file
            yield Repository(name, content.get("revision"), content.get("variant"), files)
        if _is_repository(content.get("tokenizer")):
            yield Repository(content["tokenizer"], files=TOKENIZER_FILES)
        if _is_repository(content.get("processor")):
            yield Repository(content["processor"], files=TOKENIZER_FILES)
    if isinstance(content, Mapping | list | tuple):
        for part in content.values() if isinstance(content, Mapping) else content:
            yield from repositories_in(part)


def require_repositories(repositories: Iterable[Repository]) -> None:
    """Without network, raise one error for all repositories that are not in the local cache.

    Raises:
        FileNotFoundError: names every missing repository with the command that gets it.
    """
    missing = [wanted for wanted in dict.fromkeys(repositories) if not is_cached(wanted)]
    whole = {(wanted.name, wanted.revision) for wanted in missing if wanted.is_whole}
    missing = [wanted for wanted in missing if wanted.is_whole or (wanted.name, wanted.revision) not in whole]
    if missing and not _hub_is_reachable():
        raise FileNotFoundError(missing_message(missing))


def is_cached(repository: Repository) -> bool:
    """Whether the local cache has the file, or (if not exactly one file is needed) any file, of this revision."""
    name, revision, files = repository.name, repository.revision, repository.files
    if isinstance(files, str) and "*" not in files:
        return isinstance(try_to_load_from_cache(name, files, revision=revision), str)
    return cached_commit(repository) is not None


def cached_commit(repository: Repository) -> str | None:
    """The commit of a repository that the local cache has for its revision; None if it has none."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.name.replace('/', '--')}"
    revision = repository.revision or constants.DEFAULT_REVISION
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    return commit if (folder / "snapshots" / commit).is_dir() else None


def _local_folder(pretrained: str, names: Sequence[str], hint: str | None = None) -> Path | None:
    """`pretrained` as a folder that has one of these files; None if it may be a Hub id instead."""
    if not pretrained.strip():
        raise FileNotFoundError("An empty name is no place to load from: give a folder, or the id of a repository.")
    folder = expand_home(pretrained)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in names):
            raise FileNotFoundError(_incomplete_folder(folder, names, hint))
        return folder
    if not _may_be_hub_id(pretrained):
        raise FileNotFoundError(f"There is no folder {folder}.{_advice_for_folder(folder)}")
    return None


def _first_cached(repository: Repository, names: Sequence[str]) -> tuple[Path, str] | None:
    """The first of these files in the local cache, and its name in the repository."""
    for name in names:
        cached = try_to_load_from_cache(repository.name, name, revision=repository.revision)
        if isinstance(cached, str):
            return Path(cached), name
    return None


def _download_first(repository: Repository, names: Sequence[str]) -> str:
    """Download the first of these files that the repository has; returns the local file."""
    for name in names:
        try:
            return hf_hub_download(repository.name, name, revision=repository.revision)
        except _HUB_ERRORS as caught:
            error = caught
    raise FileNotFoundError(missing_message([repository], error)) from error


def _own_description(path: Any) -> Callable[[Mapping[str, Any]], Iterable[Repository]] | None:
    """The classmethod `repositories` of the class at a class path; None if there is no such class or method."""
    try:
        return getattr(import_class(path, object), "repositories", None) if isinstance(path, str) else None
    except ValueError:
        return None


def _is_repository(name: Any) -> bool:
    return isinstance(name, str) and _may_be_hub_id(name) and not expand_home(name).exists()


def _hub_is_reachable() -> bool:
    """Whether the Hub answers one request, with any status."""
    if is_offline_mode():
        return False
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except HTTPError:
        return True
    except OSError:  # no network, no such host, a timeout
        return False
    except ValueError:  # no address
        message = "HF_ENDPOINT is %r, which is no address; write it like https://huggingface.co."
        logging.getLogger(__name__).warning(message, constants.ENDPOINT)
        return False
    return True


def _may_be_hub_id(pretrained: str) -> bool:
    return _HUB_ID.fullmatch(pretrained) is not None and not _is_miniature(Path(pretrained))


def _is_miniature(path: Path) -> bool:
    return "miniature" in path.parts


def _advice_for_folder(folder: Path) -> str:
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    nearest = difflib.get_close_matches(folder.name, beside, n=1)
    if nearest:
        return f" Did you mean {folder.parent / nearest[0]}?"
    if folder.parts[:2] == ("data", "miniature"):
        return _MAKE_MINIATURE
    if not folder.is_absolute():
        return f" It was looked for in {Path.cwd()}, and beside a YAML file that names it. Check the path."
    return " Check the path, or give the id of a repository on the Hugging Face Hub."


def _incomplete_folder(folder: Path, markers: Sequence[str], hint: str | None = None) -> str:
    marker = " or ".join(markers)
    names = sorted(path.name for path in folder.iterdir())
    held = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"
    inside, beside = (
        sorted({path.parent for name in markers for path in place.glob(f"*/{name}")})
        for place in (folder, folder.parent)
    )
    if inside or (names and len(beside) == 1):
        advice = f" Did you mean {(inside or beside)[0]}?"
    elif _is_miniature(folder):
        advice = _MAKE_MINIATURE
    else:
        advice = f" {hint or f'Point to the folder that `save_pretrained` wrote {marker} to.'}"
    return f"{folder} has no {marker}; it holds {held}.{advice}"


def missing_message(repositories: Sequence[Repository], error: Exception | None = None) -> str:
    """The error message for repositories that cannot be loaded, with the commands that download them.

    Args:
        repositories: at least one.
        error: the error of the Hub or of loading; None if the repositories are not cached and the Hub is not reachable.
    """
    one = len(repositories) == 1
    commands = "\n                                           ".join(wanted.command for wanted in repositories)
    pages = [f"https://huggingface.co/{wanted.name}" for wanted in repositories]
    where = f"at {' and '.join(pages)}" if len(pages) < 3 else "on its page at https://huggingface.co"
    message = (
        f"Cannot load {', '.join(repr(wanted.name) for wanted in repositories)}: "
        f"there {'is no such folder' if one else 'are no such folders'}, and {_reason(one, error)}.\n"
        f"On a machine with network access run:  {commands}\n"
        f"The cache in use is {constants.HF_HUB_CACHE}; set HF_HOME to use another one, for example one copied here.\n"
        f"If {'the repository' if one else 'a repository'} is gated, accept its licence {where} and run "
        "`hf auth login` first."
    )
    is_local = error is not None and not isinstance(error, _HUB_REFUSALS)
    detail = next(iter(str(error).strip().splitlines()), "") if is_local else ""
    return f"{message}\nWhat was not found: {detail}" if detail else message


def _reason(one: bool, error: Exception | None) -> str:
    if error is None:
        subject = "it is" if one else "they are"
        return f"{subject} not in the local cache and the Hub cannot be reached"
    if isinstance(error, _HUB_REFUSALS):
        known = (why for kind, why in _REASONS if isinstance(error, kind))
        return f"the Hub refused it ({type(error).__name__}){next(known, '')}"
    return "some of its files are not in the local cache"
