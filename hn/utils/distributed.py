"""Sharded tensors, of which each process holds a part (FSDP2), and full ones."""

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all processes, which must all call this; one that is whole is given back."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(module: nn.Module) -> bool:
    """Whether processes hold parts of the module's weights (FSDP2)."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, sharded as `other` of the same shape is; nothing is sent."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def class_of(module: nn.Module) -> type[nn.Module]:
    """The module's class, that of before `fully_shard`, which puts a class of its own in its place."""
    return next(cls for cls in type(module).__mro__ if not issubclass(cls, FSDPModule))
