"""The LoRA hypernetwork with its LoRA added to the weights: the same f in fewer operations, for inference."""

from typing import Any, NoReturn, Self

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from hn.generators.base import Conditioning, Generator
from hn.hypernets.base import Hypernet
from hn.hypernets.lora_layers import ADAPTER
from hn.utils.copies import frozen_view
from hn.utils.distributed import is_sharded
from hn.utils.dtype import full_precision
from hn.utils.layers import compile_layers


class MergedHypernet(Hypernet):
    """f of a `LoraHypernet`, whose `merged` makes it, with W + alpha / rank B A as one weight in each adapted layer.

    It costs a pass of the plain backbone, and the memory of the adapted layers once more; what has no LoRA is shared
    with the generator, which is left alone. In the last layer alpha / rank B A is one weight, in the LoRA's data type.
    Sums are rounded to the data type of the weights, so in half precision f is a little different. Grouped convolutions
    keep their LoRA beside them: it mixes all channels, and merged into it they would be dense.

    It cannot be trained or saved; the hypernetwork that it was made of can.

    Args:
        backbone: with LoRA, and a `LowRankBranch` for the last layer; not changed.
        last_layer: name of the last layer.
        generator: the generator that the hypernetwork is bound to.
        compile: run it through `torch.compile`; the first call of each size takes its time.

    Raises:
        ValueError: if torch.compile does not run here, or processes hold parts of the weights.
    """

    def __init__(self, backbone: nn.Module, last_layer: str, generator: Generator, compile: bool = False):
        super().__init__()
        self.backbone = merge_lora(backbone, last_layer)
        if compile and not generator.is_meta:
            compile_layers([self.backbone])
        self.eval()
        self.build(generator)

    def _build(self, generator: Generator) -> None:
        """Nothing: the weights are those it was made of."""

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        return self.generator.first_step(self.backbone, noise, conditioning).to(noise.dtype)

    def train(self, mode: bool = True) -> Self:
        """Raises a RuntimeError if it is to train."""
        return self._refuse("trained") if mode else super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Raises a RuntimeError if its weights are to take gradients."""
        return self._refuse("trained") if requires_grad else super().requires_grad_(False)

    def arguments(self) -> dict[str, Any]:
        return self._refuse("saved")

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Raises a RuntimeError: there are no trained weights any more."""
        return self._refuse("saved")

    @staticmethod
    def _refuse(what: str) -> NoReturn:
        raise RuntimeError(f"A merged hypernetwork cannot be {what}; the LoraHypernet that it was made of can.")


class FullPrecisionLayer(nn.Module):
    """A layer that takes inputs in another data type than its weights', as LoRA does; its output is in its own."""

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.layer.weight.dtype))


@torch.no_grad()
def merge_lora(backbone: nn.Module, last_layer: str) -> nn.Module:
    """A frozen copy of `backbone` without LoRA in its plain layers; see `MergedHypernet`.

    Args:
        backbone: with LoRA, and a `LowRankBranch` for the last layer; not changed, and shares all tensors but the
            merged ones with the copy.
        last_layer: name of the last layer.

    Raises:
        ValueError: if processes hold parts of its weights (FSDP2).
    """
    if is_sharded(backbone):
        raise ValueError(
            "The weights of this hypernetwork are sharded over processes (FSDP2), and merged ones would be whole on "
            "each. Save it with save_pretrained, load it in one process, and merge it there (hn generate --merge)."
        )
    merged = frozen_view(backbone)
    for name, layer in list(merged.named_modules()):
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            change = _change(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER])
            sum_ = full_precision(base.weight) + change
            base.weight = nn.Parameter(sum_.to(base.weight.dtype), requires_grad=False)
            merged.set_submodule(name, base)
    branch: Any = merged.get_submodule(last_layer)  # a LowRankBranch
    only = branch.lora_A[ADAPTER]
    change = _change(only.weight, branch.lora_B[ADAPTER].weight, branch.scale)
    only.weight = nn.Parameter(change, requires_grad=False)
    setattr(only, "out_channels" if isinstance(only, nn.Conv2d) else "out_features", len(only.weight))
    merged.set_submodule(last_layer, FullPrecisionLayer(only))
    return merged


def _change(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * B A, in the shape of the layer's weight [out, in, ...]."""
    return scale * torch.einsum("or,ri...->oi...", b.flatten(1), a)
