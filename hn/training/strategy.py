"""Lightning's strategy for FSDP2, with checkpoints that any other strategy reads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from hn.generators.base import Generator
from hn.utils.distributed import full_tensor, shard_like


class ShardedStrategy(ModelParallelStrategy):
    """Each process keeps a part of the weights, gradients and optimiser's state (FSDP2), on GPUs or on the CPU.

    `hn.training.strategy.shard` says what is sharded. Lightning's own `ModelParallelStrategy` would write the
    frozen weights to every checkpoint, or a folder of parts that no other strategy reads. Here a checkpoint is the one
    file that a single process writes, with whole tensors, and is read by any number of processes.

    Args:
        process_group_backend: like "nccl" or "gloo"; the device's if not given.
        timeout: of messages between processes.
    """

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        # Lightning's "auto" would have each machine's devices share the layers' products instead.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup_optimizers(self, trainer: L.Trainer) -> None:
        """Make the optimisers.

        Raises:
            ValueError: if PyTorch cannot use one with sharded weights.
        """
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            check_optimizer(optimizer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: the module puts its trainable weights into the checkpoint, and the frozen ones must not be
        gathered for that."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state as one process has it, in whole tensors."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return apply_to_collection(optimizer.state_dict(), Tensor, lambda tensor: full_tensor(tensor).cpu())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """What the file holds; every process reads all of it."""
        return super(ModelParallelStrategy, self).load_checkpoint(checkpoint_path, weights_only)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take each process's part of the states that `optimizer_state` gave, but for whether kernels are fused."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            by_number = dict(zip(numbers, own, strict=True))
            parts = {number: _parts(values, by_number[number]) for number, values in state["state"].items()}
            groups = [
                {**saved, "fused": group["fused"]} if "fused" in group else saved
                for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
            ]
            optimizer.load_state_dict({"state": parts, "param_groups": groups})


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse an optimiser whose fused kernel PyTorch (2.14) does not run on a part of the weights.

    Raises:
        ValueError: says what to do.
    """
    is_fused = any(group.get("fused") for group in optimizer.param_groups)
    if is_fused and isinstance(optimizer, (torch.optim.Adagrad, torch.optim.SGD)):
        raise ValueError(
            f"PyTorch's fused {type(optimizer).__name__} does not work on weights that FSDP2 shards: "
            "add --model.optimizer.init_args.fused=false, or take AdamW."
        )


def _parts(values: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """A parameter's state with this process's part of all that has the parameter's shape."""
    return {
        name: shard_like(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for name, value in values.items()
    }


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
        generator: whose backbone, if it has one, is frozen.
        network: the hypernetwork or fine-tune, on a copy of the backbone (as `LoraBackbone`) or of its own.
        mesh: of the processes, one dimension.
    """
    trained = getattr(network, "backbone", network)
    if isinstance(trained, FSDPModule):
        return
    frozen = generator.backbone if generator.has_backbone else nn.Module()
    names = {id(parameter): name for name, parameter in frozen.named_parameters()}
    shared = {name: names[id(p)] for name, p in trained.named_parameters() if id(p) in names}
    for backbone in (frozen, trained) if generator.has_backbone else (trained,):
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
