"""Gradients of several rewards, scaled to the same norm before they are weighted."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hn.utils.dtype import full_precision


def balanced_gradient(gradients: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """sum_k w_k * g_k * c / |g_k| with c = sum_k |w_k| |g_k| / sum_k |w_k|, norms over the whole batch.

    The norm of each term is then proportional to the weight of its reward, whatever the scale of the scores. The sum of
    these norms is the same as without balancing, so a single reward's gradient does not change. A zero gradient stays
    zero.

    Args:
        gradients: of the scores of each reward with respect to the images, [B, 3, H, W] by name.
        weights: of the rewards, not 0.

    Returns:
        [B, 3, H, W] in float32 or float64.
    """
    full = {name: full_precision(gradient) for name, gradient in gradients.items()}
    norms = {name: torch.linalg.vector_norm(gradient) for name, gradient in full.items()}
    total_weight = sum(abs(weights[name]) for name in gradients)
    common = sum(abs(weights[name]) / total_weight * norm for name, norm in norms.items())
    # A gradient with norm 0 is 0, so any finite factor is right.
    factors = {name: weights[name] * common / norm.where(norm > 0, 1.0) for name, norm in norms.items()}
    return sum(factors[name] * gradient for name, gradient in full.items())


def with_gradient(images: Tensor, scores: Tensor, gradient: Tensor) -> Tensor:
    """Scores [B] whose gradient with respect to the images [B, ...] is `gradient` [B, ...], row by row; they cannot be
    differentiated twice."""
    return _WithGradient.apply(images, scores, gradient)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, scores: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.images_dtype = images.dtype
        return scores.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        upstream = upstream.reshape(-1, *[1] * (gradient.ndim - 1))
        return (upstream * gradient).to(ctx.images_dtype), None, None
