"""The memory of an update by part, and the largest batch for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from hn.generators.pipeline import DiffusersGenerator
from hn.module import NoiseHypernetModule, OptimizerFactory
from hn.planning.encoding import fake_conditioning
from hn.planning.fake import fake_copy, weight_bytes
from hn.planning.update import UpdateMemory, update_memory

GIB = 1 << 30
USABLE = 0.9
"""Share of a GPU's memory to plan with: the rest is for the CUDA context and what the allocator cannot fill."""
PROMPT = "a cat"  # short: of a prompt as long as the window, pipelines look at the values


@dataclass(frozen=True)
class Plan:
    """Memory of one update, in bytes.

    Attributes:
        batch_size: images per update and GPU.
        weights: frozen weights by part, text encoders that stay in memory among them; trainable ones as "trained".
        trainable: number of trainable parameters.
        gradients: of the trainable weights.
        optimizer: its state.
        update: what the forward and backward pass of `batch_size` images takes.
        anchor: a batch from which on it grows evenly, and what that one takes.
        each_image: by how much it grows with an image from there on.
        accumulates: whether gradients of an earlier batch are there during an update.
    """

    batch_size: int
    weights: dict[str, int]
    trainable: int
    gradients: int
    optimizer: int
    update: UpdateMemory
    anchor: tuple[int, int]
    each_image: int
    accumulates: bool

    @property
    def fixed(self) -> int:
        """What is there whatever the batch."""
        return sum(self.weights.values()) + self.optimizer + (self.gradients if self.accumulates else 0)

    @property
    def total(self) -> int:
        """The most that is there at a time, at `batch_size`."""
        return self.fixed + self.update.peak

    def largest_batch(self, memory: float) -> int:
        """The largest batch whose update takes no more than `USABLE` of so many bytes; 0 if one image does not fit."""
        batch, peak = self.anchor
        more = (USABLE * memory - self.fixed - peak) // self.each_image
        if more >= 0:
            return batch + int(more)
        # Below the anchor a line from it is a little too high: images are not scored in parts there.
        if self.total <= USABLE * memory:
            return self.batch_size
        return max(0, int((USABLE * memory - self.fixed) // (self.update.peak / self.batch_size)))


def plan_update(module: NoiseHypernetModule, batch_size: int, precision: str = "32-true", accumulate: int = 1) -> Plan:
    """Count the memory of an update without running it: shapes alone are followed, on fake tensors.

    Counted are the tensors that are alive; not what kernels take for themselves, what the allocator cannot fill, or
    what PyTorch needs to use a GPU. Attention is counted as by kernels that do not keep its matrix, as on GPUs.

    Args:
        module: its generator is an outline; rewards may be anywhere.
        batch_size: images per update and GPU.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        accumulate: batches whose gradients make an update.

    Raises:
        ValueError: if this generator or precision cannot be followed; says why.
    """
    generator = module.generator
    if not isinstance(generator, DiffusersGenerator):
        raise ValueError(f"Memory can be planned for a DiffusersGenerator, not for a {type(generator).__name__}.")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    generator.start  # noqa: B018 - computed now, from the scheduler's values, of which there are none later
    text = generator.files.outline_text_encoders(generator.family)
    sizes = {}
    try:
        # Memory grows by the same with each image, once there are as many as are scored at a time.
        first = max(batch_size, module.score_batch_size or 1)
        for size in dict.fromkeys([batch_size, first, first + 1]):
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            conditioning = fake_conditioning(generator.family, text, [PROMPT] * size, mode)
            sizes[size] = update_memory(fake_copy(module, mode), conditioning, [PROMPT] * size, precision, mode)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ValueError(
            f"The memory of a {type(generator.pipe).__name__} cannot be planned: how it runs depends on the values of "
            "tensors (the length of each prompt), and there are only shapes."
        ) from error
    return Plan(
        batch_size=batch_size,
        weights=weights_by_part(module, {} if generator.conditioning is not None else text.components),
        trainable=sum(parameter.numel() for parameter in trained),
        gradients=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        optimizer=optimizer_bytes(module.optimizer_factory, trained),
        update=sizes[batch_size],
        anchor=(first, sizes[first].peak),
        each_image=sizes[first + 1].peak - sizes[first].peak,
        accumulates=accumulate > 1,
    )


def weights_by_part(module: NoiseHypernetModule, components: Mapping[str, object]) -> dict[str, int]:
    """Bytes of the weights of each network of the generator, of each reward, and of what is trained.

    Args:
        module: a module.
        components: of the generator's pipeline, those that the module does not have.
    """
    others = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    parts: dict[str, nn.Module] = others | dict(module.generator.components.items())
    for kind, members in (("reward", module.reward.rewards), ("held-out reward", module.reward.held_out)):
        parts |= {f"{kind} {name}": reward for name, reward in members.items()}
    bytes_of = {name: weight_bytes(part) for name, part in parts.items()}
    trained = [p for p in module.parameters() if p.requires_grad]
    return bytes_of | {"trained": sum(p.numel() * p.element_size() for p in trained)}


def optimizer_bytes(factory: OptimizerFactory | Callable, trained: Sequence[nn.Parameter]) -> int:
    """Bytes of an optimiser's state: what it keeps for a small layer after a step, in proportion.

    Args:
        factory: makes the optimiser of parameters.
        trained: the parameters; their sizes and data types count alone.
    """
    dtypes = {parameter.dtype for parameter in trained}
    each = {}
    for dtype in dtypes:
        layer = nn.Parameter(torch.zeros(64, 64, dtype=dtype))
        layer.grad = torch.ones_like(layer)
        optimizer = factory([layer])
        optimizer.step()
        state = [value for value in optimizer.state[layer].values() if isinstance(value, torch.Tensor)]
        each[dtype] = sum(value.numel() * value.element_size() for value in state if value.numel() > 1) / layer.numel()
    return int(sum(parameter.numel() * each[parameter.dtype] for parameter in trained))
