"""Activation checkpointing of frozen towers."""

import inspect
import os
import shutil
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class CheckpointedLayer(nn.Module):
    """A layer whose activations are computed again in the backward pass instead of kept.

    The libraries' own switches are not used: transformers checkpoints in training mode only, and rewards stay in eval
    mode. Without gradients the layer just runs.

    Args:
        layer: takes and gives tensors; must not draw random numbers.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives."""
        return checkpoint(self.layer, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def checkpoint_layers(layers: nn.ModuleList) -> None:
    """Put a `CheckpointedLayer` around each layer, in place; weights have to be loaded before, for names change."""
    for i, layer in enumerate(layers):
        layers[i] = CheckpointedLayer(layer)


_COMPILERS = ("g++", "clang++", "c++", "gcc", "clang", "cl")

# Layers of all towers are instances of few classes, whose graphs torch counts together: one for each sort of tower,
# with and without gradients, for one image and for several. Beyond its own limit, 8, it quietly goes on uncompiled.
_RECOMPILE_LIMIT = 64


def compile_layers(layers: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compile layers in place; what they compute, and the names of their parameters, stay the same.

    Layers are compiled one by one and not as a tower: those alike share one graph, so that 32 layers take the time of
    one. What is inside a `CheckpointedLayer` is compiled, and checkpointed as before. Nothing happens before the first
    call.

    Args:
        layers: that take and give tensors.
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
    """Check that torch.compile runs here; compiles nothing.

    Raises:
        ValueError: if this Python or system is not supported, or there is no compiler for what inductor writes.
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
    """Whether there is a compiler for the code that inductor (C++) and Triton (C) write: $CXX, $CC or a usual one."""
    own = [os.environ[name] for name in ("CXX", "CC") if os.environ.get(name)]
    return any(shutil.which(name) for name in (*own, *_COMPILERS))
