"""LoRA on depthwise and other grouped convolutions, which PEFT adapts only if the rank divides by their groups."""

import torch
from torch import Tensor, nn


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
        factory = {"device": weight.device, "dtype": torch.promote_types(weight.dtype, torch.float32), "bias": False}
        a = nn.Conv2d(
            base_layer.in_channels,
            rank,
            base_layer.kernel_size,
            base_layer.stride,
            base_layer.padding,
            base_layer.dilation,
            padding_mode=base_layer.padding_mode,
            **factory,
        )
        b = nn.Conv2d(rank, base_layer.out_channels, 1, **factory)
        nn.init.normal_(a.weight, std=1 / rank)
        nn.init.zeros_(b.weight)
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({adapter_name: a})
        self.lora_B = nn.ModuleDict({adapter_name: b})
        self.scaling = {adapter_name: alpha / rank}
        self.adapter_name = adapter_name

    def forward(self, x: Tensor) -> Tensor:
        base = self.base_layer(x)
        a, b = self.lora_A[self.adapter_name], self.lora_B[self.adapter_name]
        lora = b(a(x.to(a.weight.dtype))) * self.scaling[self.adapter_name]
        return (base + lora).to(base.dtype)
