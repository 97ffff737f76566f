"""Loading weights strictly: none missing, none left over, and no code of a pickle is run."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from hn.utils.text import differences, some_of

M = TypeVar("M", bound=PreTrainedModel)

_NAMED = 4  # weights in a message, of each kind

# Errors of torch and safetensors for damaged files and files of another kind.
UNREADABLE = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    UnpicklingError,
    SafetensorError,
)


def is_without_weights() -> bool:
    """Whether models are built on the meta device (inside `with torch.device("meta")`), where no weights are read."""
    return torch.get_default_device().type == "meta"


def read_state_dict(file: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a file of `torch.save`.

    If the file has an entry "state_dict", that entry is returned. Tensors are memory-mapped where the format allows it.
    On the meta device (`is_without_weights`), tensors have shapes and no values.

    Raises:
        ValueError: if the file is damaged, contains Python objects other than tensors, or no tensors by name.
    """
    file = Path(file)
    try:
        if file.suffix == ".safetensors":
            with torch.device("cpu"):  # memory-mapped: values are read when they are used
                content = load_file(file)
        else:
            place = "meta" if is_without_weights() else "cpu"
            content = torch.load(file, map_location=place, weights_only=True, mmap=zipfile.is_zipfile(file))
    except UNREADABLE as error:
        raise ValueError(
            f"{file} cannot be read as tensors ({type(error).__name__}): it is damaged, or a pickle that would "
            "run code, which hn does not load. Download it again, or save its state_dict by itself."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} holds no tensors by name, neither at its top nor under 'state_dict'.")
    return {name: tensor.to("meta") for name, tensor in content.items()} if is_without_weights() else dict(content)


def require_finite(state_dict: dict[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The state dict, whose values are all finite; those on the meta device are not looked at.

    Raises:
        ValueError: if values are NaN or infinite; names the tensors.
    """
    wrong = [name for name, tensor in state_dict.items() if not tensor.is_meta and not torch.isfinite(tensor).all()]
    if wrong:
        raise ValueError(
            f"{source} has values that are NaN or infinite, in {len(wrong)} of {len(state_dict)} weights "
            f"({some_of(wrong)}): its training diverged, or the file is damaged. Take an earlier checkpoint's weights."
        )
    return state_dict


def assign_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path, what: str) -> None:
    """Replace the parameters and buffers of a model by tensors, without copies (`load_state_dict(assign=True)`).

    Args:
        model: usually on the meta device.
        state_dict: one tensor for each name in the model's state dict, and no others.
        source: file of the tensors, for the error message.
        what: name of the model, for the error message.

    Raises:
        ValueError: if names or shapes differ; lists them.
    """
    expected = model.state_dict()
    missing, unknown = expected.keys() - state_dict.keys(), state_dict.keys() - expected.keys()
    shapes = [
        f"{name} {list(state_dict[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    problems = differences({"missing": missing, "unknown": unknown, "of another shape": shapes}, _NAMED)
    if problems:
        raise ValueError(f"{source} does not hold the weights of {what}: {problems}.")
    model.load_state_dict(state_dict, strict=True, assign=True)


def load_transformers_model(
    model_class: type[M],
    pretrained: str,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    config: PretrainedConfig | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
) -> M:
    """`model_class.from_pretrained`, but missing weights are an error instead of random numbers.

    On the meta device (`is_without_weights`), only the configuration is read.

    Args:
        model_class: the transformers class.
        pretrained: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights.
        config: of the model, if it is not the one in the repository.
        state_dict: all weights of the model, used instead of the repository's. It needs `config`; `pretrained` is then
            used in error messages only.

    Raises:
        OSError: if files are missing (`hn.utils.hub.explain_missing` explains it).
        ValueError: if weights are missing or do not fit; says which.
    """
    if is_without_weights():
        return _build_on_meta(model_class, pretrained, revision, dtype, config)
    options = {} if config is None else {"config": config}
    source = pretrained
    if state_dict is not None:
        source, options["state_dict"] = None, dict(state_dict)
    model, info = model_class.from_pretrained(
        source, revision=revision, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    by_kind = {
        "missing": info["missing_keys"],
        "unknown": () if state_dict is None else info["unexpected_keys"],
        "of another shape": {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]},
    }
    if problems := differences(by_kind, _NAMED):
        raise ValueError(f"{pretrained} does not hold the weights of a {model_class.__name__}: {problems}.")
    return model


def _build_on_meta(
    model_class: type[M], pretrained: str, revision: str | None, dtype: torch.dtype, config: PretrainedConfig | None
) -> M:
    if config is None:
        own = model_class.config_class
        found = own.get_config_dict(pretrained, revision=revision)[0].get("model_type")
        if found != own.model_type:
            raise ValueError(f"{pretrained} does not describe a {model_class.__name__}: its model_type is {found!r}.")
        config = own.from_pretrained(pretrained, revision=revision)
    # nn.Module's `to`: that of transformers warns of layers that have to stay in float32, and here are no values.
    return nn.Module.to(model_class(config), dtype)
