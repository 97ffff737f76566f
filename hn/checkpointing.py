"""Activation checkpointing of frozen towers."""

from typing import Any

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
