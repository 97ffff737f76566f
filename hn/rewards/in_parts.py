"""Scores of a batch in parts, so that the activations of only one part are in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hn.rewards.ensemble import RewardOutput
from hn.rewards.gradient_balance import with_gradient

Score = Callable[[Tensor, Sequence[str]], RewardOutput]
"""(Latents or images [B, ...], B prompts) -> scores. The score of a sample must not depend on the others."""


def score_in_parts(inputs: Tensor, prompts: Sequence[str], score: Score, size: int) -> RewardOutput:
    """Score a batch in parts and compute the gradient of each part at once; a later backward pass starts from these
    gradients. Scores and gradients are those of the whole batch, with less memory and the same amount of computation.

    Args:
        inputs: [B, ...], differentiated if they require gradients.
        prompts: B prompts.
        score: decodes and scores a part.
        size: samples per part, at least 1.

    Returns:
        Scores whose `total` is differentiable in `inputs`, once; the components have no gradients.
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
    joined = join_scores(outputs)
    if not with_gradients:
        return joined
    return RewardOutput(with_gradient(inputs, joined.total, torch.cat(gradients)), joined.components)


def join_scores(outputs: Sequence[RewardOutput]) -> RewardOutput:
    """The scores of a batch from those of its parts, in their order."""
    components = {name: torch.cat([each.components[name] for each in outputs]) for name in outputs[0].components}
    return RewardOutput(torch.cat([each.total for each in outputs]), components)
