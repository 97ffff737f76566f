"""One update of a module on fake tensors, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from hn.generators.base import Conditioning
from hn.generators.noise import training_streams
from hn.generators.pipeline_generator import PipelineGenerator
from hn.objective import noise_hypernetwork_loss
from hn.rewards.base import Reward
from hn.rewards.in_parts import score_in_parts
from hn.training.module import NoiseHypernetModule
from hn.training.planning.live_memory import LiveMemory
from hn.training.planning.values import KnownValues

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Data type of autocast by Lightning's name of the precision."""


BACKWARD = "backward pass"


@dataclass(frozen=True)
class UpdateMemory:
    """Bytes of one update, weights apart.

    Attributes:
        kept: what each stage leaves behind for the backward pass, by its name, in their order.
        peak: the most that is alive at a time, gradients of the weights among it.
        peak_stage: the stage in which that is; `BACKWARD` after all of them.
    """

    kept: dict[str, int]
    peak: int
    peak_stage: str = BACKWARD


class StagedMemory(LiveMemory):
    """Live memory by stages of an update.

    Attributes:
        kept: bytes that each stage left behind, by its name.
        peak_stage: the name of the stage with the highest peak so far.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__(known)
        self.kept: dict[str, int] = {}
        self.peak_stage, self._last_peak = "", 0

    def end_stage(self, name: str, keeps: bool = True) -> None:
        """Count what has happened since the last stage as the stage `name`; `keeps` whether it leaves something."""
        if keeps:
            self.kept[name] = self.now - sum(self.kept.values())
        if self.peak > self._last_peak:
            self.peak_stage, self._last_peak = name, self.peak


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
    with mode, KnownValues(), StagedMemory(known) as memory:
        with autocast(precision):
            noise = torch.randn(len(prompts), *generator.noise_shape)
            f = module.hypernet(noise, conditioning)
            memory.end_stage("hypernetwork")
            score = _score_forward_only if module.estimator.is_forward_only else _score_with_gradients
            total = score(module, noise + f, conditioning, prompts, memory)
            loss = noise_hypernetwork_loss(total, f, module.regulariser, module.reward_weight).loss
        loss.backward()
        memory.end_stage(BACKWARD, keeps=False)
        for parameter in module.parameters():
            parameter.grad = None
        return UpdateMemory(memory.kept, memory.peak, memory.peak_stage)


def _score_with_gradients(
    module: NoiseHypernetModule,
    modulated: Tensor,
    conditioning: Conditioning,
    prompts: Sequence[str],
    memory: StagedMemory,
) -> Tensor:
    """Scores [B] of modulated noise [B, *noise_shape], whose backward pass goes through generator and rewards."""
    generator, size = module.hypernet.image_generator, module.score_batch_size
    assert isinstance(generator, PipelineGenerator)
    latents = generator.denoise(modulated, conditioning)
    memory.end_stage("generator")
    if size is None:
        images = generator.decode(latents)
        memory.end_stage("decoder")
        scores = module.reward(images, prompts)
        memory.end_stage("rewards")
    else:
        scores = score_in_parts(latents, prompts, lambda z, p: module.reward(generator.decode(z), p), size)
        memory.end_stage("decoder and rewards, in parts")
    return scores.total


def _score_forward_only(
    module: NoiseHypernetModule,
    modulated: Tensor,
    conditioning: Conditioning,
    prompts: Sequence[str],
    memory: StagedMemory,
) -> Tensor:
    """Scores [B] of modulated noise [B, *noise_shape] by an estimator that runs generator and rewards without
    gradients."""
    streams = training_streams(len(prompts), module.seed, step=0)
    scores = module.scores(modulated, conditioning, prompts, streams)
    memory.end_stage("generator, decoder and rewards, without gradients")
    return scores.total


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
