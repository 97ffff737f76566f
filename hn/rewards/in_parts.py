"""Scores of a batch, part by part, so that the activations of one part are alive at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hn.rewards.ensemble import RewardOutput
from hn.rewards.gradient_balance import with_gradient

Score = Callable[[Tensor, Sequence[str]], RewardOutput]
"""(Latents or images [B, ...], B prompts) -> their scores; each sample's depends on it alone."""


def score_in_parts(inputs: Tensor, prompts: Sequence[str], score: Score, size: int) -> RewardOutput:
    """Scores whose gradients are computed at once, a part after the other: the backward pass of what comes before them
    begins with these. The same scores and gradients as of the whole batch, in less memory and no more computation.

    Args:
        inputs: [B, ...] of which gradients are wanted.
        prompts: B prompts.
        score: what decodes and scores a part.
        size: of a part, 1 or more.

    Returns:
        Scores whose `total` is differentiable in `inputs`, once; the components are without gradients.
    """
    with_gradients = torch.is_grad_enabled() and inputs.requires_grad
    outputs: list[RewardOutput] = []
    gradients: list[Tensor] = []
    for start in range(0, len(prompts), size):
        part = inputs[start : start + size].detach().requires_grad_(with_gradients)
        output = score(part, prompts[start : start + size])
        if with_gradients:
            gradients += torch.autograd.grad(output.total.sum(), part)
        outputs.append(RewardOutput(output.total.detach(), {k: v.detach() for k, v in output.components.items()}))
    components = {name: torch.cat([o.components[name] for o in outputs]) for name in outputs[0].components}
    total = torch.cat([output.total for output in outputs])
    return RewardOutput(with_gradient(inputs, total, torch.cat(gradients)) if with_gradients else total, components)
