"""One update of a module on fake tensors, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from hn.generators.base import Conditioning
from hn.generators.pipeline_generator import PipelineGenerator
from hn.objective import noise_hypernetwork_loss
from hn.rewards.base import Reward
from hn.rewards.in_parts import score_in_parts
from hn.training.module import NoiseHypernetModule
from hn.training.planning.live_memory import LiveMemory
from hn.training.planning.values import KnownValues

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Data type of autocast by Lightning's name of the precision."""


@dataclass(frozen=True)
class UpdateMemory:
    """Bytes of one update, weights apart.

    Attributes:
        kept: what each stage leaves behind for the backward pass, by its name, in their order.
        peak: the most that is alive at a time, gradients of the weights among it.
    """

    kept: dict[str, int]
    peak: int


def update_memory(
    module: NoiseHypernetModule,
    conditioning: Conditioning,
    prompts: Sequence[str],
    precision: str,
    mode: AbstractContextManager,
) -> UpdateMemory:
    """Run forward and backward pass of one batch on a module of fake tensors, and count.

    Args:
        module: a `fake_copy` in `mode`, or a real one, which is run then.
        conditioning: of B prompts, tensors of the same kind.
        prompts: B prompts.
        precision: a name in `AUTOCAST`.
        mode: that of the fake tensors; any context for real ones.
    """
    generator = module.hypernet.image_generator
    assert isinstance(generator, PipelineGenerator)
    known = chain(module.parameters(), module.buffers(), conditioning.values())
    with mode, KnownValues(), LiveMemory(known) as memory:
        kept: dict[str, int] = {}

        def stage(name: str) -> None:
            kept[name] = memory.now - sum(kept.values())

        with autocast(precision):
            noise = torch.randn(len(prompts), *generator.noise_shape)
            f = module.hypernet(noise, conditioning)
            stage("hypernetwork")
            latents = generator.denoise(noise + f, conditioning)
            stage("generator")
            if module.score_batch_size is None:
                images = generator.decode(latents)
                stage("decoder")
                scores = module.reward(images, prompts)
                stage("rewards")
            else:
                scores = score_in_parts(
                    latents, prompts, lambda z, p: module.reward(generator.decode(z), p), module.score_batch_size
                )
                stage("decoder and rewards, in parts")
            loss = noise_hypernetwork_loss(scores.total, f, module.regulariser, module.reward_weight).loss
        loss.backward()
        for parameter in module.parameters():
            parameter.grad = None
        return UpdateMemory(kept, memory.peak)


class Unscored(Reward):
    """In the place of a reward whose scores cannot be followed."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.new_zeros(len(images))


def without_reports(module: NoiseHypernetModule) -> NoiseHypernetModule:
    """The module itself, without rewards that are not differentiable: these leave tensors, for files and chats."""
    for name, reward in module.reward.rewards.items():
        if not reward.differentiable:
            module.reward.rewards[name] = Unscored()
    return module


def autocast(precision: str) -> AbstractContextManager:
    """What Lightning runs the forward pass in.

    Raises:
        ValueError: for a precision that is not known here.
    """
    if precision not in AUTOCAST:
        raise ValueError(f"Memory can be planned for the precisions {', '.join(AUTOCAST)}, not for {precision}.")
    dtype = AUTOCAST[precision]
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype)
