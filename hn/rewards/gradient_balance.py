"""Gradients of several rewards brought to one norm before they are weighed."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hn.utils.dtype import full_precision


def balanced_gradient(gradients: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """sum_k w_k * g_k * c / |g_k| with c = sum_k |w_k| |g_k| / sum_k |w_k|, norms over the whole batch.

    Each reward's share is then proportional to its weight, whatever the scale of its scores, and the sum of the shares'
    norms is what it was without balancing; a single reward's gradient is left as it is. A gradient of zero stays zero.

    Args:
        gradients: of every reward's scores with respect to the images, [B, 3, H, W] by name.
        weights: of the rewards, not 0.

    Returns:
        [B, 3, H, W] in float32 at least.
    """
    full = {name: full_precision(gradient) for name, gradient in gradients.items()}
    norms = {name: torch.linalg.vector_norm(gradient) for name, gradient in full.items()}
    total_weight = sum(abs(weights[name]) for name in gradients)
    common = sum(abs(weights[name]) / total_weight * norm for name, norm in norms.items())
    # Where a norm is 0 its gradient is too, and any finite factor does.
    factors = {name: weights[name] * common / norm.where(norm > 0, 1.0) for name, norm in norms.items()}
    return sum(factors[name] * gradient for name, gradient in full.items())


def with_gradient(images: Tensor, scores: Tensor, gradient: Tensor) -> Tensor:
    """Scores [B] that give the images [B, ...] the gradient [B, ...], each score its own row; cannot be differentiated
    twice."""
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
