"""Which base weights something was trained on: recorded when it is saved, compared when it is loaded."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hn.generators.base import Generator
from hn.sharded_tensors import class_of, whole

SAMPLES = 32
"""Values of each parameter that the digest is of."""


def describe_base(generator: Generator) -> dict[str, Any]:
    """The generator as the saved configuration has it, with the digest of its backbone's weights."""
    return {
        "name": generator.name,
        "revision": generator.revision,
        "backbone": class_of(generator.backbone).__name__,
        "noise_shape": list(generator.noise_shape),
        "digest": weights_digest(generator.backbone),
    }


def check_base_weights(base: Mapping[str, Any], generator: Generator, path: Path) -> None:
    """Refuse a generator whose backbone has other weights than what is loaded was trained on.

    Args:
        base: what `describe_base` gave when it was saved. Without a digest nothing is compared.
        generator: the generator it is loaded for; of one without weights nothing is compared either.
        path: of the file that `base` is from, for the message.

    Raises:
        ValueError: if neither digest is that of the generator's backbone.
    """
    recorded = base.get("digest")
    if not recorded or generator.is_outline:
        return
    found = weights_digest(generator.backbone)
    if not any(recorded.get(dtype) == digest for dtype, digest in found.items()):
        raise ValueError(
            f"{path.parent} was trained on other base weights than those of {generator.name} (of the same class, "
            f"{class_of(generator.backbone).__name__}): what it learned does not fit them. Load the generator it was "
            f"trained for ({base.get('name')}, revision {base.get('revision')}, with the same components and fused "
            "LoRAs), or train it again on this one. If you know that the weights are the same and only rounded "
            f'otherwise (trained in float16 and used in bfloat16, say), delete "digest" from {path}.'
        )


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
    tensor = whole(tensor)
    if tensor.ndim == 0:
        return tensor.detach().float()[None]
    count = min(SAMPLES, tensor.numel())
    positions = (2 * torch.arange(count) + 1) * tensor.numel() // max(1, 2 * count)
    return tensor.detach()[torch.unravel_index(positions, tensor.shape)].float()


def _bytes(values: Tensor) -> bytes:
    return values.view(torch.int16).numpy().tobytes()
