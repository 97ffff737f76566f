"""8-bit weights of frozen networks, by torchao."""

import importlib.util
from typing import Literal

import torch
from torch import nn

Quantisation = Literal["int8"]

_DTYPES = (torch.float32, torch.bfloat16)


def quantise_linear_layers(network: nn.Module) -> None:
    """Quantise the weights of a frozen network's linear layers to int8, in place: symmetric, with one float32 scale
    per row (torchao's `Int8WeightOnlyConfig`). Images, activations and gradients keep their data type; gradients with
    respect to the inputs of layers are exactly those of the rounded weights.

    The matrices of torch's MultiheadAttention (open_clip) are not quantised, since torchao does not support them, nor
    are weights that a linear layer shares with an embedding.

    Raises:
        ImportError: if torchao is not installed.
        ValueError: if weights are neither float32 nor bfloat16. float16 is refused because the product of activations
            and int8 weights, before it is scaled, overflows in it.
    """
    require_torchao()
    # Optional package, and the import takes a second.
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}

    def is_quantised(module: nn.Module, _name: str) -> bool:
        return (
            isinstance(module, nn.Linear)
            and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)  # MultiheadAttention's
            and type(module.weight) is nn.Parameter  # not of int8 already
            and id(module.weight) not in embeddings
        )

    chosen = [module for name, module in network.named_modules() if is_quantised(module, name)]
    if others := {str(module.weight.dtype) for module in chosen} - {str(dtype) for dtype in _DTYPES}:
        raise ValueError(f"Weights of {', '.join(sorted(others))} are not quantised; load them in float32 or bfloat16.")
    # torchao's recommended inductor settings would change those of the whole process.
    quantize_(network, Int8WeightOnlyConfig(set_inductor_config=False), filter_fn=is_quantised)


def require_torchao() -> None:
    """Check that torchao is installed.

    Raises:
        ImportError: if not; says how to get it.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ImportError("quantise needs torchao, which is not installed: pip install 'hn[quantise]'")
