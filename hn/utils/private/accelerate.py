"""Private names of accelerate."""

from torch import nn


def is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate moves the module, or one inside it, to the device while it runs (`enable_model_cpu_offload`
    of a pipeline, for example)."""
    return any(hasattr(each, "_hf_hook") for each in module.modules())
