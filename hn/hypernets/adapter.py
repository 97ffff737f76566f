"""LoRA on a backbone."""

import re
from collections.abc import Collection, Iterable, Sequence

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from hn.hypernets.depthwise import GroupedConvLora

ADAPTER = "default"  # PEFT's name for the only adapter there is
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
    targets = select_layers(backbone, target_modules)
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


def select_layers(backbone: nn.Module, target_modules: str | Sequence[str] | None) -> list[str]:
    """Names of the Linear and Conv2d layers that `target_modules` means; see `add_lora`.

    Raises:
        ValueError: if it, or one of its entries, fits none.
    """
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


def _fits_any(name: str, targets: Iterable[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1
