"""LoRA on a backbone."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

Layers = Mapping[str, nn.Linear | nn.Conv2d]
"""Of a LoRA, by adapter name."""
_GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


class GroupedConvLora(nn.Module):
    """A grouped convolution with a dense LoRA beside it:

        y = base(x) + alpha / rank * B(A(x))

    A [rank, C_in, k, k] is one full convolution over all input channels, with the base's kernel, stride, padding and
    dilation; B [C_out, rank, 1, 1] is a full 1 x 1 convolution. Neither is grouped and neither has a bias. So a rank of
    any size fits, and the LoRA mixes channels that the base keeps apart. This is what PEFT before 0.16 made of such a
    layer, and what the published SANA adapters hold for `ff.conv_depth`; later versions of PEFT group B and refuse a
    rank that the groups do not divide.

    Attributes have the names that PEFT gives them, so that the weights are called `<layer>.lora_A.default.weight` like
    any other. A starts as a gaussian of standard deviation 1 / rank, B as zero: y = base(x) at first. Both are float32
    at least; they compute in their own data type and y is in the base's.

    Args:
        base_layer: the convolution [B, C_in, H, W] -> [B, C_out, H', W']; used as it is, not copied.
        rank: of the LoRA.
        alpha: the LoRA output is multiplied with alpha / rank.
        adapter_name: PEFT's name for the adapter.
    """

    def __init__(self, base_layer: nn.Conv2d, rank: int, alpha: float, adapter_name: str):
        super().__init__()
        weight = base_layer.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        factory: dict[str, Any] = {"device": weight.device, "dtype": dtype, "bias": False}
        geometry = {name: getattr(base_layer, name) for name in _GEOMETRY}
        a = nn.Conv2d(base_layer.in_channels, rank, **geometry, **factory)
        b = nn.Conv2d(rank, base_layer.out_channels, 1, **factory)
        nn.init.normal_(a.weight, std=1 / rank)
        nn.init.zeros_(b.weight)
        self.base_layer = base_layer
        self.lora_A = cast(Layers, nn.ModuleDict({adapter_name: a}))
        self.lora_B = cast(Layers, nn.ModuleDict({adapter_name: b}))
        self.scaling = {adapter_name: alpha / rank}
        self.adapter_name = adapter_name

    def forward(self, x: Tensor) -> Tensor:
        base = self.base_layer(x)
        a, b = self.lora_A[self.adapter_name], self.lora_B[self.adapter_name]
        lora = b(a(x.to(a.weight.dtype))) * self.scaling[self.adapter_name]
        return (base + lora).to(base.dtype)


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
    layers = {name: backbone.get_submodule(name) for name in targets}
    grouped = {name: each for name, each in layers.items() if isinstance(each, nn.Conv2d) and each.groups > 1}
    config = _peft_config(backbone, rank, alpha, targets)
    backbone.requires_grad_(False)
    if len(grouped) < len(targets):
        plain = _peft_config(backbone, rank, alpha, set(targets) - set(grouped))
        peft.inject_adapter_in_model(plain, backbone, adapter_name=ADAPTER)
    for name, layer in grouped.items():
        backbone.set_submodule(name, GroupedConvLora(layer, rank, alpha, ADAPTER))
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
