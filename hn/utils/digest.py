"""Digests of a network's weights, by which a file that was trained on top of them knows them again."""

import hashlib

import torch
from torch import Tensor, nn

from hn.utils.distributed import full_tensor

SAMPLES = 32
"""Values of each parameter that the digest is of."""


@torch.no_grad()
def weights_digest(module: nn.Module) -> dict[str, str]:
    """Digests of a module's floating-point parameters, once rounded to float16 and once to bfloat16.

    Each is a SHA-256 over the shapes of all parameters, in their order, and over `SAMPLES` values of each, evenly
    spread. Only these leave the device. Names do not count: libraries rename layers, and compiling a module does too.

    Weights are the same if either digest is: one file loaded in float32 and in float16 agrees in the first, in float32
    and in bfloat16 in the second. Half-precision files agree in at least one however they are loaded. What cannot be
    told from other weights is a float32 file loaded in float16 here and in bfloat16 there.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    shapes = repr([tuple(parameter.shape) for parameter in parameters]).encode()
    # Gathered on the device and fetched at once: one wait instead of one for each parameter.
    sampled = [_sample(parameter) for parameter in parameters]
    values = torch.cat([part.to(sampled[0].device) for part in sampled]).cpu() if sampled else torch.zeros(0)
    return {
        str(dtype).removeprefix("torch."): hashlib.sha256(shapes + _bytes(values.to(dtype))).hexdigest()[:32]
        for dtype in (torch.float16, torch.bfloat16)
    }


def _sample(tensor: Tensor) -> Tensor:
    """Up to `SAMPLES` values in float32, whatever the tensor's memory layout, without a copy of a whole tensor."""
    tensor = full_tensor(tensor)
    if tensor.ndim == 0:
        return tensor.detach().float()[None]
    count = min(SAMPLES, tensor.numel())
    positions = (2 * torch.arange(count) + 1) * tensor.numel() // max(1, 2 * count)
    return tensor.detach()[torch.unravel_index(positions, tensor.shape)].float()


def _bytes(values: Tensor) -> bytes:
    return values.view(torch.int16).numpy().tobytes()
