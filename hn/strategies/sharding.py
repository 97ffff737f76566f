"""What FSDP2 shares out of generator and hypernetwork, in which units."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from hn.generators.base import Generator


def shard(generator: Generator, network: nn.Module, mesh: DeviceMesh) -> None:
    """Have each process keep a part of the generator's backbone and of what is trained; a second call does nothing.

    A unit is gathered before it is used and given back after it, in the backward pass again: each block of a backbone,
    the rest of it, and, apart from the frozen weights, the trained ones (LoRA) of each block and of the rest.
    Autoencoder, text encoders and rewards stay whole on every process.

    The hypernetwork's copy of the backbone has the generator's frozen tensors. Units know nothing of one another, so
    these are gathered once for f's pass and once for g's, as they would be anyway; but a part is kept once, for the
    copy is given the generator's parts. (Only where a first dimension does not divide by the number of processes, FSDP2
    pads, and keeps two.)

    Args:
        generator: whose backbone is frozen.
        network: the hypernetwork or fine-tune, on a copy of the backbone (as `LoraBackbone`) or of its own.
        mesh: of the processes, one dimension.
    """
    frozen, trained = generator.backbone, getattr(network, "backbone", network)
    if isinstance(trained, FSDPModule):
        return
    names = {id(parameter): name for name, parameter in frozen.named_parameters()}
    shared = {name: names[id(p)] for name, p in trained.named_parameters() if id(p) in names}
    for backbone in (frozen, trained):
        for block in (*_blocks(backbone), backbone):
            adapters = _with_trained_weights(block)
            for unit in ([adapters] if adapters else []) + [block]:
                # Otherwise FSDP2 would keep the rest of a backbone after a pass, for a backward pass right behind it.
                fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    # The public way to other tensors in a unit's place; `fully_shard` takes them over before the first pass.
    trained.load_state_dict(
        {name: frozen.get_parameter(original) for name, original in shared.items()}, strict=False, assign=True
    )


def _blocks(backbone: nn.Module) -> list[nn.Module]:
    """The modules of a backbone's lists of blocks; the lists of diffusers' backbones are called one by one."""
    return [block for child in backbone.children() if isinstance(child, nn.ModuleList) for block in child]


def _with_trained_weights(module: nn.Module) -> list[nn.Module]:
    """The modules under `module` (and not in a unit yet) that have trained parameters of their own."""
    return [
        part
        for part in module.modules()
        if not isinstance(part, FSDPModule) and any(p.requires_grad for p in part.parameters(recurse=False))
    ]
