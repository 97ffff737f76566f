"""Reading weights into models strictly: nothing missing, nothing left over, no code run from a pickle."""

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

from hn.utils.text import differences

M = TypeVar("M", bound=PreTrainedModel)

_NAMED = 4  # weights in a message, of each kind

# What torch and safetensors say of a file of another kind, or one that was cut short.
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
    """Whether networks are made of shapes alone: within `with torch.device("meta")`, where loading reads no weights."""
    return torch.get_default_device().type == "meta"


def read_state_dict(file: str | Path) -> dict[str, Tensor]:
    """Tensors by name, of a .safetensors file or one that `torch.save` wrote; where they lie under "state_dict" beside
    other entries, these alone. Mapped from the file rather than read, where the format allows it. Without
    weights (`is_without_weights`) the tensors are on the meta device.

    Raises:
        ValueError: if the file is damaged, holds other things than tensors or code, or no tensors by name.
    """
    file = Path(file)
    try:
        if file.suffix == ".safetensors":
            with torch.device("cpu"):  # mapped, so that shapes alone are read if no more is asked for
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


def assign_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path, what: str) -> None:
    """Make tensors the model's own parameters and buffers, whatever device and data type its own are of.

    Args:
        model: as a rule on the meta device.
        state_dict: tensors by name, all of the model's and no other.
        source: the file they come from, for the error.
        what: what the model is, for the error.

    Raises:
        ValueError: if names or shapes differ; says which.
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
    """`model_class.from_pretrained`, but weights that are not there are an error instead of random numbers.

    Without weights (`is_without_weights`) the model is on the meta device, and of the files its configuration is read.

    Args:
        model_class: the transformers class.
        pretrained: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights.
        config: of the model, where the repository's own is not.
        state_dict: all the model's weights by name, to be taken in the place of the repository's; `config` has to be
            given then, and `pretrained` is for the error.

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
    # The module's own `to`, since that of the class warns of layers that are to stay in float32: here are no values.
    return nn.Module.to(model_class(config), dtype)
