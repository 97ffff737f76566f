"""Activation checkpointing and compilation of the layers of frozen networks."""

import inspect
import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class CheckpointedLayer(nn.Module):
    """A layer whose activations are recomputed in the backward pass instead of stored.

    transformers' own gradient checkpointing is not used: it is active in training mode only, and rewards stay in eval
    mode. Without gradients the layer runs as usual.

    Args:
        layer: takes and returns tensors; must not draw random numbers.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the layer."""
        return checkpoint(self.layer, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def checkpoint_layers(layers: nn.ModuleList) -> None:
    """Wrap each layer in a `CheckpointedLayer`, in place. Load weights before: the names of parameters change."""
    for i, layer in enumerate(layers):
        layers[i] = CheckpointedLayer(layer)


_COMPILERS = ("g++", "clang++", "c++", "gcc", "clang", "cl")

# torch.compile counts the graphs of all instances of a class together: one for each kind of tower, with and without
# gradients, for one image and for several. Above its default limit, 8, it runs the layers uncompiled without a warning.
_RECOMPILE_LIMIT = 64


def compile_layers(layers: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compile layers in place with torch.compile; names of parameters stay the same.

    Layers are compiled one by one, not as a whole network: equal layers share one graph, so 32 of them compile in the
    time of one. The layer inside a `CheckpointedLayer` is compiled and stays checkpointed. Compilation happens at the
    first call.

    Args:
        layers: take and return tensors.
        backend: of torch.compile: "inductor", "aot_eager", "eager", ...

    Raises:
        ValueError: if torch.compile does not run on this platform.
    """
    options = {"backend": backend}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # not in every torch that hn runs with
        options["recompile_limit"] = _RECOMPILE_LIMIT
    require_compile(backend)
    for layer in layers:
        (layer.layer if isinstance(layer, CheckpointedLayer) else layer).compile(**options)


def require_compile(backend: str = "inductor") -> None:
    """Check that torch.compile works on this machine, without compiling anything.

    Raises:
        ValueError: if it does not support this Python or system, or "inductor" finds no C++ compiler.
    """
    try:
        torch.compile(nn.Identity(), backend=backend)
    except RuntimeError as error:
        raise ValueError(f"compile: true needs torch.compile, which does not run here: {error}") from error
    if backend == "inductor" and not has_compiler():
        raise ValueError(
            "compile: true needs a C++ compiler, and none is found. Install one (g++ or clang++), name it in the "
            "environment variable CXX, or leave compile out."
        )


def has_compiler() -> bool:
    """Whether a C or C++ compiler is installed, which inductor and Triton need: $CXX, $CC or a usual one."""
    own = [os.environ[name] for name in ("CXX", "CC") if os.environ.get(name)]
    return any(shutil.which(name) for name in (*own, *_COMPILERS))
