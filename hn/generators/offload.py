"""Networks that stay on the CPU and are copied to the device for as long as they are needed."""

import copy
from collections.abc import Callable, Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from hn.utils.copies import on_device
from hn.utils.private.torch import ApplyHook


class OnCpu(ApplyHook, nn.ModuleDict):
    """Networks that take part in changes of data type, but stay on the CPU wherever a module around them is moved."""

    def before_apply(self, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        # An empty tensor is converted to learn the data type, so that the weights never reach the device.
        def on_cpu(tensor: Tensor) -> Tensor:
            return tensor.to(convert(torch.empty(0, dtype=tensor.dtype, device=tensor.device)).dtype)

        return on_cpu


def take_out(pipe: DiffusionPipeline, names: Sequence[str]) -> tuple[DiffusionPipeline, OnCpu]:
    """A shallow copy of a pipeline without some networks, and these, on the CPU.

    Args:
        pipe: the pipeline; its networks stay where they are, and those on the CPU are the same values in memory.
        names: attributes of the pipeline; those that are no networks stay.
    """
    networks = {name: getattr(pipe, name) for name in names if isinstance(getattr(pipe, name, None), nn.Module)}
    return with_networks(pipe, dict.fromkeys(networks)), OnCpu(
        {name: on_device(each, torch.device("cpu")) for name, each in networks.items()}
    )


def put_in(pipe: DiffusionPipeline, networks: OnCpu, device: torch.device) -> DiffusionPipeline:
    """A shallow copy of a pipeline with copies of networks on `device`, which are freed with it; on the CPU they share
    their values with the networks."""
    return with_networks(pipe, {name: on_device(network, device) for name, network in networks.items()})


def with_networks(pipe: DiffusionPipeline, networks: dict[str, nn.Module | None]) -> DiffusionPipeline:
    """A shallow copy of a pipeline with other networks, by name."""
    other = copy.copy(pipe)
    for name, network in networks.items():
        setattr(other, name, network)
    return other
