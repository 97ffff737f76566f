"""LoRA on a backbone, and its files in PEFT's layout."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hn.hypernets.depthwise import GroupedConvLora

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
ADAPTER = "default"  # PEFT's name for the only adapter there is
PEFT_PREFIX = "base_model.model."  # what a PeftModel's key starts with
Adapted = LoraLayer | GroupedConvLora  # both have lora_A, lora_B and scaling, by adapter name


def add_lora(
    backbone: nn.Module, rank: int, alpha: float, target_modules: str | Sequence[str] | None = None
) -> peft.LoraConfig:
    """Add LoRA, A gaussian and B zero, to `backbone` in place; only its weights take gradients afterwards.

    LoRA weights are float32 at least, whatever the backbone's data type: small updates would be lost in half precision.
    Grouped convolutions get a dense LoRA of our own (`GroupedConvLora`), every other layer gets PEFT's.

    Args:
        backbone: any module.
        rank: of every LoRA.
        alpha: the LoRA output is multiplied with alpha / rank.
        target_modules: regular expression for full names, or a list of names or their endings; every Linear and Conv2d
            by default.

    Returns:
        The PEFT configuration, with the full name of every adapted layer.

    Raises:
        ValueError: if the rank is below 1, or `target_modules` (or one of its entries) fits no Linear or Conv2d.
    """
    if rank < 1:
        raise ValueError(f"A LoRA's rank must be at least 1, not {rank}.")
    targets = _select(backbone, target_modules)
    grouped = [name for name in targets if _is_grouped(backbone.get_submodule(name))]
    config = _peft_config(backbone, rank, alpha, targets)
    backbone.requires_grad_(False)
    if len(grouped) < len(targets):
        plain = _peft_config(backbone, rank, alpha, set(targets) - set(grouped))
        peft.inject_adapter_in_model(plain, backbone, adapter_name=ADAPTER)
    for name in grouped:
        backbone.set_submodule(name, GroupedConvLora(backbone.get_submodule(name), rank, alpha, ADAPTER))
    adapted = {name for name, module in backbone.named_modules() if isinstance(module, Adapted)}
    if adapted != set(targets):
        raise ValueError(f"PEFT adapted other layers than asked for: {sorted(adapted ^ set(targets))}.")
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return config


def _peft_config(backbone: nn.Module, rank: int, alpha: float, targets: Collection[str]) -> peft.LoraConfig:
    # PEFT takes a target for the ending of a name too: "conv" would adapt "block.conv" as well.
    also_fitting = [name for name, _ in backbone.named_modules() if name not in targets and _fits_any(name, targets)]
    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(targets),
        exclude_modules=also_fitting or None,
        init_lora_weights="gaussian",
    )


def save_adapter(folder: Path, state: dict[str, Tensor], config: peft.LoraConfig) -> None:
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
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def load_adapter(folder: Path, rank: int, alpha: float) -> dict[str, Tensor]:
    """LoRA weights by their names in the backbone, of a folder that `save_adapter` wrote.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: if a key is not in PEFT's layout, or rank or alpha are not those in `adapter_config.json`.
    """
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}.")
    config = json.loads((folder / CONFIG_FILE).read_text())
    if (config["r"], config["lora_alpha"]) != (rank, alpha):
        raise ValueError(
            f"{folder / CONFIG_FILE} says rank {config['r']} and alpha {config['lora_alpha']}, but rank {rank} and "
            f"alpha {alpha} are asked for; one of the files in this folder is not the original."
        )
    state = {}
    for key, tensor in load_file(folder / WEIGHTS_FILE).items():
        match = re.fullmatch(re.escape(PEFT_PREFIX) + r"(.+\.lora_[AB])\.(\w+)", key)
        if match is None:
            raise ValueError(f"{folder / WEIGHTS_FILE} has a key that is no LoRA weight in PEFT's layout: {key!r}.")
        state[f"{match[1]}.{ADAPTER}.{match[2]}"] = tensor
    return state


def _select(backbone: nn.Module, target_modules: str | Sequence[str] | None) -> list[str]:
    layers = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if target_modules is None:
        selected = layers
    elif isinstance(target_modules, str):
        selected = [name for name in layers if re.fullmatch(target_modules, name)]
    else:
        for target in target_modules:
            if not any(_fits_any(name, [target]) for name in layers):
                raise ValueError(f"No Linear or Conv2d of {type(backbone).__name__} is called {target!r}.")
        selected = [name for name in layers if _fits_any(name, target_modules)]
    if not selected:
        raise ValueError(f"{target_modules!r} fits no Linear or Conv2d of {type(backbone).__name__}.")
    return selected


def _fits_any(name: str, targets: Iterable[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1
