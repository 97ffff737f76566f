"""LoRA weights on disk, in PEFT's layout and in the other one that published adapters have."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import peft
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hn.hypernets.lora_layers import ADAPTER, select_layers
from hn.utils.json_files import read_json
from hn.utils.json_types import require_types
from hn.utils.text import some_of
from hn.utils.weights import read_state_dict, require_finite

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors")
"""The first that is there is read; the last one is diffusers'."""
PEFT_PREFIX = "base_model.model."  # what a PeftModel's key starts with

_KEY = re.compile(r"(?P<layer>.+)\.lora_(?P<ab>[AB])(\.default)?\.weight")

_COMPILED = "_orig_mod"
"""The word that torch.compile puts before the names of what it compiles, which may be single blocks."""

_WRAPPERS = ("module", "unet", "transformer", "base_model", "model")
"""Words that DDP, diffusers and PEFT put before the names of a backbone's layers."""

_METADATA, _BACKBONES = "lora_adapter_metadata", ("unet", "transformer")
"""Where diffusers keeps PEFT's options in a file of weights, and the names of backbones that stand before them."""

_WITHOUT_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",  # how A starts
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "revision",
    "task_type",
)
"""PEFT's options that say nothing of the function that A and B make."""

_CHECKED: dict[str, Any] = {
    "r": int,
    "lora_alpha": float,
    "target_modules": str | list[str] | None,
    "exclude_modules": str | list[str] | None,
}
"""The options that are read, and their types."""

_PLAIN = {
    "peft_type": ("LORA",),
    # With others, like pissa and olora, A and B are relative to base weights that PEFT changes when it loads them.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""Options with the values under which the function is that of plain LoRA."""


@dataclass(frozen=True)
class SavedAdapter:
    """A LoRA as its files have it.

    Attributes:
        path: the file of the weights.
        state: weights by their names in a backbone with LoRA, `<layer>.lora_A.default.weight` [rank, in, ...] and
            `<layer>.lora_B.default.weight` [out, rank, ...].
        rank: of every LoRA.
        alpha: the LoRA output is multiplied with alpha / rank.
        config: `adapter_config.json`; empty without it.
    """

    path: Path
    state: dict[str, Tensor]
    rank: int
    alpha: float
    config: Mapping[str, Any]

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have LoRA."""
        return sorted({name.rpartition(".lora_")[0] for name in self.state})

    def fitted_to(self, backbone: nn.Module) -> SavedAdapter:
        """The adapter with the names of the backbone's layers: without the words that libraries put before them.

        Raises:
            ValueError: if a layer is no Linear or Conv2d of the backbone, or two have the same name.
        """
        known = set(select_layers(backbone, None))
        names = {layer: next((name for name in _inner_names(layer) if name in known), layer) for layer in self.layers}
        unknown = {layer for layer, name in names.items() if name not in known}
        if unknown:
            count = "none" if len(unknown) == len(names) else f"{len(names) - len(unknown)}"
            raise ValueError(
                f"{self.path} is for another model: of its {len(names)} layers {count} is a Linear or Conv2d of "
                f"{type(backbone).__name__}; unknown are {some_of(unknown)}."
            )
        if len(set(names.values())) < len(names):
            twice = {name for name, count in Counter(names.values()).items() if count > 1}
            raise ValueError(f"{self.path} has several LoRA for the same layer, under other names: {some_of(twice)}.")
        state = {}
        for key, tensor in self.state.items():
            layer, mark, rest = key.rpartition(".lora_")
            state[f"{names[layer]}{mark}{rest}"] = tensor
        config = dict(self.config)
        if state.keys() != self.state.keys():
            config.pop("target_modules", None)  # which is of the names before
        return replace(self, state=state, config=config)

    def target_modules(self, backbone: nn.Module) -> str:
        """A pattern that fits exactly the adapter's layers, which have to be the backbone's (`fitted_to`).

        They are read off the weights: the list in `adapter_config.json` may be shortened to endings of names.

        Raises:
            ValueError: if one that `adapter_config.json` names has no weights.
        """
        layers, targets = set(self.layers), self.config.get("target_modules")
        if targets and not self.config.get("exclude_modules"):
            missing = set(select_layers(backbone, targets)) - layers
            if missing:
                raise ValueError(f"{self.path} lacks weights of layers that {CONFIG_FILE} names: {some_of(missing)}.")
        return "|".join(map(re.escape, sorted(layers)))


def save_adapter(folder: Path, state: Mapping[str, Tensor], config: peft.LoraConfig) -> None:
    """Write `adapter_model.safetensors` (keys as a PeftModel's) and `adapter_config.json` to a folder that exists.

    Args:
        folder: where to.
        state: LoRA weights by their names in the backbone.
        config: the PEFT configuration they were made with.
    """
    weights = {
        PEFT_PREFIX + name.replace(f".{ADAPTER}.", "."): tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
    }
    save_file(weights, folder / WEIGHTS_FILES[0], metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def read_adapter(folder: Path, rank: int | None = None, alpha: float | None = None) -> SavedAdapter:
    """The LoRA in a folder, with or without the key prefix of a PeftModel.

    Args:
        folder: holds one of `WEIGHTS_FILES` (read without unpickling objects), and perhaps `adapter_config.json`.
        rank: must be the files', if given.
        alpha: likewise; has to be given if there is no `adapter_config.json`, for the weights do not show it.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if a file is damaged or holds code, a key is no LoRA weight, A or B is missing, values are not
            finite, ranks differ, rank or alpha are not those of the files or alpha is unknown, or `adapter_config.json`
            asks for more than plain LoRA.
    """
    path = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no {' or '.join(WEIGHTS_FILES)}.")
    state, found_rank = _parse(path, require_finite(read_state_dict(path), path))
    config = _read_config(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else _options_within(path)
    if config.get("r", found_rank) != found_rank:
        raise ValueError(f"{folder / CONFIG_FILE} says rank {config['r']}, but the weights have rank {found_rank}.")
    found_alpha = config.get("lora_alpha", alpha)
    if found_alpha is None:
        raise ValueError(
            f"{folder} has no {CONFIG_FILE} to say alpha, and the weights of rank {found_rank} do not show it; state "
            "it (published: 2 x rank for SANA and SD-Turbo, 5 x rank for FLUX)."
        )
    asked = (found_rank if rank is None else rank, found_alpha if alpha is None else alpha)
    if asked != (found_rank, found_alpha):
        raise ValueError(
            f"{folder} holds a LoRA of rank {found_rank} and alpha {found_alpha}, but rank {asked[0]} and alpha "
            f"{asked[1]} are asked for."
        )
    return SavedAdapter(path, state, found_rank, found_alpha, config)


def _parse(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    if not tensors:
        raise ValueError(f"{path} is empty.")
    prefix = PEFT_PREFIX if all(key.startswith(PEFT_PREFIX) for key in tensors) else ""
    state: dict[str, Tensor] = {}
    ranks: dict[int, str] = {}
    halves: dict[str, set[str]] = {"A": set(), "B": set()}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key.removeprefix(prefix))
        if match is None or tensor.ndim < 2:
            raise ValueError(f"{path} has a key that is no LoRA weight in PEFT's layout: {key!r} {list(tensor.shape)}.")
        name = f"{match['layer']}.lora_{match['ab']}.{ADAPTER}.weight"
        if name in state:
            raise ValueError(f"{path} has a LoRA weight twice: {key!r}, and under another name.")
        state[name] = tensor
        halves[match["ab"]].add(match["layer"])
        if match["ab"] == "A":
            ranks[tensor.shape[0]] = match["layer"]
    if halves["A"] != halves["B"]:
        raise ValueError(f"{path} does not have A and B of every layer: {some_of(halves['A'] ^ halves['B'])}.")
    if len(ranks) > 1:
        described = ", ".join(f"{rank} ({layer})" for rank, layer in sorted(ranks.items()))
        raise ValueError(f"{path} has LoRA of different ranks, which is not supported: {described}.")
    return state, next(iter(ranks))


def _inner_names(layer: str) -> Iterator[str]:
    """The name of a layer, and what is left of it as the words that libraries put before it are taken off."""
    yield layer
    words = [word for word in layer.split(".") if word != _COMPILED]
    yield ".".join(words)
    while words and words[0] in _WRAPPERS:
        words = words[1:]
        yield ".".join(words)


def _read_config(path: Path) -> dict[str, Any]:
    advice = "Download it again, or save the adapter again."
    config = read_json(path, advice)
    _check_config(config, path, advice)
    return config


def _options_within(path: Path) -> dict[str, Any]:
    """The options that diffusers keeps in the file of weights itself; none if it has none."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as opened:
        text = (opened.metadata() or {}).get(_METADATA)
    try:
        found = {} if text is None else json.loads(text)
        split = [(*name.partition(".")[::2], value) for name, value in found.items()]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} has options of its LoRA ({_METADATA}) that are no JSON object: {error}.") from error
    config = {name: value for part, name, value in split if part in _BACKBONES}
    _check_config(config, path, "Download it again, or save the adapter again.")
    return config


def _check_config(config: Mapping[str, Any], path: Path, advice: str) -> None:
    require_types(config, _CHECKED, path, (), advice)
    more = {name: value for name, value in config.items() if not _is_plain(name, value)}
    if more:
        described = ", ".join(f"{name}: {value}" for name, value in more.items())
        raise ValueError(f"{path} asks for more than plain LoRA, which is not supported: {described}.")


def _is_plain(name: str, value: Any) -> bool:
    """Whether an option leaves the function that of plain LoRA: one without effect, a known value, empty or PEFT's
    default."""
    if name in _PLAIN:
        return value is None or value in _PLAIN[name]
    if name in _WITHOUT_EFFECT or name in _CHECKED or value in (None, "", [], {}) or value is False:
        return True
    own = next((each for each in fields(peft.LoraConfig) if each.name == name), None)
    return own is not None and own.default is not MISSING and type(value) is type(own.default) and value == own.default
