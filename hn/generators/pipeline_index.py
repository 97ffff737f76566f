"""`model_index.json` of a pipeline: checked before diffusers follows it, which imports what it names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import diffusers
import transformers
from diffusers import ConfigMixin, DiffusionPipeline
from transformers import (
    FeatureExtractionMixin,
    ImageProcessingMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

_PARTS = (
    ConfigMixin,  # networks and schedulers of diffusers
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    ImageProcessingMixin,
    FeatureExtractionMixin,
)
"""What a part of a pipeline can be, but no pipeline, which would have an index of its own."""


def check_index(index: Any, source: str) -> Mapping[str, Any]:
    """The index of a pipeline, which names nothing but classes of diffusers and transformers.

    Args:
        index: the content of `model_index.json`.
        source: the pipeline, for errors.

    Raises:
        ValueError: if it is no index, or names anything else, of which nothing is imported.
    """
    where = f"{source}, {DiffusionPipeline.config_name}"
    name = index.get("_class_name") if isinstance(index, Mapping) else None
    if not isinstance(name, str):
        raise ValueError(f"{where}: '_class_name' has to be a pipeline of diffusers, but is {name!r}.")
    pipeline = getattr(diffusers, name, DiffusionPipeline)  # one that is missing is told where it is needed
    if not (isinstance(pipeline, type) and (issubclass(pipeline, DiffusionPipeline) or _lacks_package(pipeline))):
        raise ValueError(f"{where}: '_class_name' has to be a pipeline of diffusers, but is {name!r}.")
    for part, value in index.items():
        if isinstance(value, list | tuple) and not part.startswith("_") and any(each is not None for each in value):
            _check_part(f"{where}: {part!r}", [*value])
    return index


def find_class(name: str) -> type[Any]:
    """A class of diffusers.

    Raises:
        ValueError: if this version has none of that name.
    """
    try:
        return getattr(diffusers, name)
    except AttributeError as error:
        raise ValueError(f"This version of diffusers ({diffusers.__version__}) has no {name}.") from error


def _check_part(what: str, value: list[Any]) -> None:
    if len(value) != 2 or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{what} has to be a library and the name of a class, but is {value!r}.")
    library, name = value
    found: Any
    if library == "diffusers":
        found = find_class(name)
    elif library == "transformers":
        # diffusers drops that word, and knows the new names of classes that are called otherwise now.
        found = getattr(transformers, name.removeprefix("FlashPack"), None)
    elif library.isidentifier() and find_spec(f"diffusers.pipelines.{library}") is not None:
        found = getattr(import_module(f"diffusers.pipelines.{library}"), name, None)
    else:
        raise ValueError(
            f"{what} is of {library!r}, and to import that runs its code: of a pipeline's files only classes of "
            "diffusers and transformers are taken."
        )
    is_part = isinstance(found, type) and issubclass(found, _PARTS) and not issubclass(found, DiffusionPipeline)
    if found is not None and not is_part and not _lacks_package(found):
        raise ValueError(f"{what} is {name}, which is no network, scheduler, tokenizer or processor.")


def _lacks_package(found: Any) -> bool:
    """Whether this stands for a class whose package is not installed; to use it is an error that names the package."""
    return isinstance(found, type) and isinstance(vars(found).get("_backends"), list)
