"""LoRA weights on disk, in PEFT's layout and in the other one that published adapters have."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
from safetensors.torch import save_file
from torch import Tensor, nn

from hn.hypernets.lora_layers import ADAPTER, select_layers
from hn.utils.text import some_of
from hn.utils.weights import read_state_dict

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there is read
PEFT_PREFIX = "base_model.model."  # what a PeftModel's key starts with

_KEY = re.compile(r"(?P<layer>.+)\.lora_(?P<ab>[AB])\.weight")
# What PEFT can do to a LoRA so that the same A and B make another function, apart from `bias`.
_UNSUPPORTED = (
    "alpha_pattern",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "use_dora",
    "use_rslora",
)


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

    def target_modules(self, backbone: nn.Module) -> str:
        """A pattern that fits exactly the adapter's layers, which must be layers of `backbone`.

        They are read off the weights: the list in `adapter_config.json` may be shortened to endings of names.

        Raises:
            ValueError: if one of them is no Linear or Conv2d of the backbone, or one that `adapter_config.json` names
                has no weights.
        """
        model, layers = type(backbone).__name__, set(self.layers)
        unknown = layers - set(select_layers(backbone, None))
        if unknown:
            count = "none" if unknown == layers else f"{len(layers) - len(unknown)}"
            raise ValueError(
                f"{self.path} is for another model: of its {len(layers)} layers {count} is a Linear or Conv2d of "
                f"{model}; unknown are {some_of(unknown)}."
            )
        if self.config.get("target_modules") and not self.config.get("exclude_modules"):
            missing = set(select_layers(backbone, self.config["target_modules"])) - layers
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
        folder: holds `adapter_model.safetensors` or `adapter_model.bin` (read without unpickling objects), and perhaps
            `adapter_config.json`.
        rank: must be the files', if given.
        alpha: likewise; has to be given if there is no `adapter_config.json`, for the weights do not show it.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if the file is damaged or holds code, a key is no LoRA weight, A or B is missing, ranks differ, rank
            or alpha are not those of the files or alpha is unknown, or `adapter_config.json` asks for more than plain
            LoRA.
    """
    path = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no {' or '.join(WEIGHTS_FILES)}.")
    state, found_rank = _parse(path, read_state_dict(path))
    config = json.loads((folder / CONFIG_FILE).read_text()) if (folder / CONFIG_FILE).is_file() else {}
    _check_config(folder / CONFIG_FILE, config)
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
        state[f"{match['layer']}.lora_{match['ab']}.{ADAPTER}.weight"] = tensor
        halves[match["ab"]].add(match["layer"])
        if match["ab"] == "A":
            ranks[tensor.shape[0]] = match["layer"]
    if halves["A"] != halves["B"]:
        raise ValueError(f"{path} does not have A and B of every layer: {some_of(halves['A'] ^ halves['B'])}.")
    if len(ranks) > 1:
        described = ", ".join(f"{rank} ({layer})" for rank, layer in sorted(ranks.items()))
        raise ValueError(f"{path} has LoRA of different ranks, which is not supported: {described}.")
    return state, next(iter(ranks))


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    more = [name for name in _UNSUPPORTED if config.get(name)]
    more += [name for name, plain in (("peft_type", "LORA"), ("bias", "none")) if str(config.get(name, plain)) != plain]
    if more:
        described = ", ".join(f"{name}: {config[name]}" for name in more)
        raise ValueError(f"{path} asks for more than plain LoRA, which is not supported: {described}.")
