"""The reward-tilted noise-space objective and its terms, pure functions of tensors (arXiv 2508.09968).

Notation: x0 ~ N(0, I) is the noise, f the hypernetwork's perturbation of it, T(x0) = x0 + f(x0), d the number of noise
dimensions of one sample and J the Jacobian of f at x0. Tilting the noise distribution by the reward r of the
generated image gives the loss

    L = KL(T # p || p) - E[r],     KL(T # p || p) = E[ 1/2 |f|^2 + tr J - log |det(I + J)| ]

The first term of the KL is kept; `remainder_bound` bounds what the other two leave out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hn.utils.dtype import full_precision

Regulariser = Literal["mean", "sum"]


@dataclass(frozen=True)
class ObjectiveTerms:
    """The loss of one batch and what it is made of; all scalars, `loss` carries the gradient.

    Attributes:
        loss: `regulariser - reward_weight * reward`.
        reward: batch mean of the reward.
        regulariser: batch mean of the penalty on f, in the convention the loss uses.
        kl: batch mean of 1/2 |f|^2 in nats, whatever the regulariser; for logging, detached.
    """

    loss: Tensor
    reward: Tensor
    regulariser: Tensor
    kl: Tensor


def noise_kl(f: Tensor) -> Tensor:
    """1/2 |f|^2 per sample, in nats: f [B, ...] -> [B]. The paper's regulariser, summed over the noise dimensions.

    Half precision is summed in float32: |f|^2 of a large latent overflows float16.
    """
    return 0.5 * full_precision(f).flatten(1).square().sum(dim=1)


def mean_square_penalty(f: Tensor) -> Tensor:
    """1/2 mean of f^2 per sample: f [B, ...] -> [B]. The published code's regulariser, d times weaker than the KL."""
    return 0.5 * full_precision(f).flatten(1).square().mean(dim=1)


def noise_hypernetwork_loss(
    reward: Tensor, f: Tensor, regulariser: Regulariser = "mean", reward_weight: float = 1.0
) -> ObjectiveTerms:
    """The training loss, `regulariser(f) - reward_weight * reward`, each averaged over the batch.

    Args:
        reward: [B], higher is better, differentiable in f's parameters.
        f: [B, ...] the hypernetwork's output.
        regulariser: "mean" is the published code's 1/2 mean(f^2), "sum" the paper's 1/2 |f|^2 (d times stronger).
        reward_weight: the inverse temperature of the tilt.

    Raises:
        ValueError: for an unknown regulariser, or if `reward` is not one number per sample of `f`.
    """
    if reward.shape != f.shape[:1]:
        raise ValueError(f"reward has shape {tuple(reward.shape)}, but f {tuple(f.shape)} needs one reward per sample.")
    penalties = {"mean": mean_square_penalty, "sum": noise_kl}
    if regulariser not in penalties:
        raise ValueError(f"Unknown regulariser {regulariser!r}; choose 'mean' (published code) or 'sum' (paper).")
    penalty = penalties[regulariser](f).mean()
    mean_reward = full_precision(reward).mean()
    return ObjectiveTerms(
        loss=penalty - reward_weight * mean_reward,
        reward=mean_reward,
        regulariser=penalty,
        kl=noise_kl(f.detach()).mean(),
    )


def jacobian_terms(f: Callable[[Tensor], Tensor], x0: Tensor) -> tuple[Tensor, Tensor]:
    """Exact tr J and log |det(I + J)| of f at each x0: [B, ...] -> [B], [B].

    Builds the d x d Jacobian of every sample, so it is for small d: tests and studies of the bound.

    Args:
        f: maps one sample (no batch dimension) to a perturbation of the same shape.
        x0: [B, ...] noise.
    """
    size = x0[0].numel()
    jacobian = torch.func.vmap(torch.func.jacrev(f))(x0).reshape(len(x0), size, size)
    identity = torch.eye(size, dtype=x0.dtype, device=x0.device)
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(dim=1)
    return trace, torch.linalg.slogdet(identity + jacobian).logabsdet


def exact_noise_kl(f: Callable[[Tensor], Tensor], x0: Tensor) -> Tensor:
    """1/2 |f|^2 + tr J - log |det(I + J)| at each x0: [B, ...] -> [B]; its mean over x0 ~ N(0, I) is the exact KL.

    See `jacobian_terms` for the arguments and the cost.
    """
    trace, log_determinant = jacobian_terms(f, x0)
    return noise_kl(torch.func.vmap(f)(x0)) + trace - log_determinant


def remainder_bound(dimensions: int, lipschitz: float) -> float:
    """d (-log(1 - L) - L), the most by which |E[tr J - log|det(I + J)|]| can be off if f is L-Lipschitz.

    Raises:
        ValueError: unless 0 <= L < 1; the bound does not hold there.
    """
    if not 0 <= lipschitz < 1:
        raise ValueError(f"The bound holds for a Lipschitz constant in [0, 1), not {lipschitz}.")
    return dimensions * (-math.log1p(-lipschitz) - lipschitz)
