"""The memory of an update by part, and the largest batch for a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import nn

from hn.generators.pipeline import DiffusersGenerator
from hn.generators.pipeline_generator import PipelineGenerator
from hn.training.module import NoiseHypernetModule, OptimizerFactory
from hn.training.planning.encoding import fake_conditioning, usual_prompt
from hn.training.planning.fake import fake_copy, weight_bytes
from hn.training.planning.update import UpdateMemory, update_memory, without_reports
from hn.utils.private.torch import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

GIB = 1 << 30
USABLE = 0.9
"""Share of a GPU's memory to plan with: the rest is for the CUDA context and what the allocator cannot fill."""


@dataclass(frozen=True)
class Plan:
    """Memory of one update, in bytes.

    Attributes:
        batch_size: images per update and GPU.
        weights: frozen weights by part, text encoders that stay on the GPU among them; trainable ones as "trained".
        on_cpu: weights by part that stay on the CPU: offloaded text encoders.
        remembered: conditioning of the prompts that the generator keeps, when it has seen so many.
        trainable: number of trainable parameters.
        gradients: of the trainable weights.
        optimizer: its state.
        encoding: what encoding a batch of new prompts takes before that, offloaded text encoders among it.
        update: what the forward and backward pass of `batch_size` images takes.
        peaks: what the forward and backward pass of batches of some sizes take, by size, the smallest first. In between
            it grows about evenly, and beyond the last two as between them.
        accumulates: whether gradients of an earlier batch are there during an update.
    """

    batch_size: int
    weights: dict[str, int]
    on_cpu: dict[str, int]
    remembered: int
    trainable: int
    gradients: int
    optimizer: int
    encoding: int
    update: UpdateMemory
    peaks: dict[int, int]
    accumulates: bool

    @property
    def fixed(self) -> int:
        """What is there whatever the batch."""
        gradients = self.gradients if self.accumulates else 0
        return sum(self.weights.values()) + self.remembered + self.optimizer + gradients

    @property
    def total(self) -> int:
        """The most that is there at a time, at `batch_size`."""
        return self.fixed + max(self.update.peak, self.encoding)

    @property
    def each_image(self) -> int:
        """By how much a large batch grows with an image."""
        before, last = list(self.peaks.values())[-2:]
        return last - before

    def largest_batch(self, memory: float) -> int:
        """The largest batch whose update takes no more than `USABLE` of so many bytes; 0 if one image does not fit."""
        left = USABLE * memory - self.fixed
        fitting = [size for size, peak in self.peaks.items() if peak <= left]
        if self.encoding > left or not fitting:
            return 0
        sizes = [*self.peaks]
        size = fitting[-1]
        if size == sizes[-1]:
            slope: float = self.each_image
        else:
            above = sizes[sizes.index(size) + 1]
            slope = (self.peaks[above] - self.peaks[size]) / (above - size)
        return size + int((left - self.peaks[size]) // slope)


def plan_update(
    module: NoiseHypernetModule,
    batch_size: int,
    precision: str = "32-true",
    accumulate: int = 1,
    prompt: str | None = None,
) -> Plan:
    """Count the memory of an update without running it: shapes alone are followed, on fake tensors.

    Counted are the tensors that are alive; not what kernels take for themselves, what the allocator cannot fill, or
    what PyTorch needs to use a GPU. Attention is counted as by kernels that do not keep its matrix, as on GPUs. Of
    rewards that are not differentiable the weights count, not what they take while they score.

    Args:
        module: its generator is on the meta device; rewards may be anywhere.
        batch_size: images per update and GPU.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        accumulate: batches whose gradients make an update.
        prompt: that of every image; if not given one that fills the text encoder's window, if its length matters.

    Raises:
        ValueError: if this generator or precision cannot be followed; says why.
    """
    generator = module.generator
    if not isinstance(generator, DiffusersGenerator):
        raise ValueError(f"Memory can be planned for a DiffusersGenerator, not for a {type(generator).__name__}.")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    generator.start  # noqa: B018 - computed now, from the scheduler's values, of which there are none later
    with torch.device("meta"):
        text = generator.files.build_text_encoders_on_meta(generator.family)
    prompt = usual_prompt(generator.family, text) if prompt is None else prompt
    batches = {
        size: follow_batch(module, text, [prompt] * size, precision) for size in sizes_to_follow(module, batch_size)
    }
    batch = batches[batch_size]
    own = generator.components.keys()
    encoders = {} if generator.conditioning is not None else networks_of(text, without=own)
    offloaded = generator.family.text_parts if generator.offload_text_encoders else ()
    on_cpu = {name: weight_bytes(encoders.pop(name)) for name in offloaded if name in encoders}
    return Plan(
        batch_size=batch_size,
        weights=weights_by_part(module, encoders),
        on_cpu=on_cpu,
        remembered=generator.prompt_cache_size * (batch.conditioning // batch_size),
        trainable=sum(parameter.numel() for parameter in trained),
        gradients=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        optimizer=optimizer_bytes(module.optimizer_factory, trained),
        encoding=batch.encoding + sum(on_cpu.values()) if generator.conditioning is None else 0,
        update=batch.update,
        peaks={size: batch.update.peak for size, batch in batches.items()},
        accumulates=accumulate > 1,
    )


def sizes_to_follow(module: NoiseHypernetModule, batch_size: int) -> list[int]:
    """Sizes of batches between which, and beyond which, memory grows by the same with each image, in order.

    Once a batch has more than `score_batch_size` images to score, they are scored in parts, and it grows by less.

    Args:
        module: as for `plan_update`.
        batch_size: images per update and GPU.
    """
    whole = math.ceil((module.score_batch_size or 1) / module.estimator.samples)
    large = max(batch_size, whole)
    return sorted({1, whole, batch_size, large, large + 1})


@dataclass(frozen=True)
class BatchMemory:
    """Bytes of one batch.

    Attributes:
        conditioning: of all its prompts.
        encoding: what encoding them takes.
        update: what the forward and backward pass take.
    """

    conditioning: int
    encoding: int
    update: UpdateMemory


def follow_batch(
    module: NoiseHypernetModule, text: DiffusionPipeline, prompts: Sequence[str], precision: str
) -> BatchMemory:
    """Follow the shapes of one update, prompts encoded beforehand.

    Args:
        module: as for `plan_update`.
        text: the pipeline's text encoders, on the meta device.
        prompts: of the batch.
        precision: as for `plan_update`.

    Raises:
        ValueError: if shapes alone do not say how this generator runs, or as `update_memory`.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    generator = module.generator
    assert isinstance(generator, PipelineGenerator)
    try:
        conditioning, encoding = fake_conditioning(generator.family, text, prompts, mode)
        conditioning |= {name: mode.from_tensor(ids) for name, ids in generator.tokens(prompts).items()}
        copied = without_reports(fake_copy(module, mode))
        update = update_memory(copied, conditioning, prompts, precision, mode)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ValueError(
            f"The memory of a {type(generator.pipe).__name__} cannot be planned: how it runs depends on values that "
            "networks compute, and there are only shapes."
        ) from error
    return BatchMemory(sum(tensor.nbytes for tensor in conditioning.values()), encoding, update)


def networks_of(pipe: DiffusionPipeline, without: Container[str] = ()) -> dict[str, nn.Module]:
    """The networks of a pipeline by name, but for some."""
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {name: part for name, part in networks.items() if name not in without}


def weights_by_part(module: NoiseHypernetModule, others: Mapping[str, nn.Module]) -> dict[str, int]:
    """Bytes of the weights of each network of the generator, of each reward, and of what is trained.

    Args:
        module: a module.
        others: networks by name that it does not have.
    """
    assert isinstance(module.generator, PipelineGenerator)
    parts: dict[str, nn.Module] = {**others, **dict(module.generator.components.items())}
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
