"""What the objective leaves out of the KL, and the Lipschitz constant that bounds it, estimated without a Jacobian.

The exact KL of the noise is E[1/2 |f|^2 + tr J - log|det(I + J)|] (`hn.objective`); training keeps the first term.
Where the spectral radius of J is below 1,

    tr J - log det(I + J) = sum over k >= 2 of (-1)^k tr(J^k) / k,    tr(J^k) = E[v . J^k v],   v = +-1 at random,

of which the terms up to some k are taken. J is met in products alone: J^T v by backward differentiation, J v by forward
differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from hn.evaluation.samples import Samples
from hn.generators.base import Conditioning, Generator
from hn.hypernets.base import Hypernet
from hn.objective import noise_kl, remainder_bound

NoiseFunction = Callable[[Tensor], Tensor]
"""Maps noise [B, ...] to a perturbation of its shape, each sample on its own."""


def hutchinson_remainder(
    f: NoiseFunction, x0: Tensor, probes: int, terms: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Estimates of tr J - log det(I + J) at each x0, one a probe, and of the spectral radius: [B, ...] -> [probes, B]
    each, float64.

    The first have no bias but the truncation, which is at most `truncation_bound`. They mean nothing where the spectral
    radius is 1 or more, where the series diverges. The second are the rates at which the products grow, which come to
    the spectral radius with the terms.

    Args:
        f: the perturbation.
        x0: noise [B, ...].
        probes: vectors of random signs.
        terms: the last k of the series, at least 2.
        rng: on the CPU; draws the signs.
    """
    estimates, radii = [], []
    with differentiable():
        x0 = x0.detach().clone().requires_grad_()
        output = f(x0)
        for _ in range(probes):
            signs = _random_signs(x0, rng)
            product, total = signs.to(output.dtype), torch.zeros(len(x0), dtype=torch.float64)
            lengths = []
            for k in range(1, terms + 1):
                product = transposed_product(output, x0, product)
                lengths.append(_dot(product, product).sqrt().cpu())
                if k >= 2:
                    total += (-1) ** k / k * _dot(signs, product).cpu()
            estimates.append(total)
            growth = lengths[-1] / lengths[0].clamp(min=torch.finfo(torch.float64).tiny)
            radii.append(growth ** (1 / (terms - 1)))
    return torch.stack(estimates), torch.stack(radii)


def spectral_norm(f: NoiseFunction, x0: Tensor, iterations: int, rng: torch.Generator) -> Tensor:
    """The largest singular value of J at each x0, by power iteration on J^T J: [B, ...] -> [B], float64.

    Approached from below; that of a differentiable f's worst x0 is its Lipschitz constant.

    Args:
        f: the perturbation.
        x0: noise [B, ...].
        iterations: of the power method, at least 1.
        rng: on the CPU; draws the first vector.
    """
    with differentiable():
        x0 = x0.detach().clone().requires_grad_()
        output = f(x0)
        direction = _unit(torch.randn(x0.shape, generator=rng, dtype=torch.float64).to(x0))
        for _ in range(iterations):
            pushed = forward_product(f, x0, direction)
            direction = _unit(transposed_product(output, x0, pushed.to(output.dtype)).to(x0.dtype))
        pushed = forward_product(f, x0, direction)
        return _dot(pushed, pushed).sqrt().cpu()


def truncation_bound(dimensions: int, radius: float, terms: int) -> float:
    """d r^(K+1) / ((K + 1) (1 - r)): the most that the terms of the series beyond K add up to, in nats.

    Args:
        dimensions: d, of one sample's noise.
        radius: r, the spectral radius of J, or more, like a Lipschitz constant.
        terms: K, the last term taken.

    Raises:
        ValueError: unless 0 <= r < 1; the series may diverge there.
    """
    if not 0 <= radius < 1:
        raise ValueError(f"The series converges for a spectral radius in [0, 1), not {radius}.")
    return dimensions * radius ** (terms + 1) / ((terms + 1) * (1 - radius))


@dataclass(frozen=True)
class NoiseDiagnostics:
    """How far 1/2 |f|^2 is from the KL that it stands for, on a few prompts that are always the same.

    The hypernetwork runs in its weights' data types, whatever the trainer's precision: forward differentiation does not
    go with autocast. A small J is best measured with weights in float32; bfloat16 leaves two to three digits.

    Args:
        prompts: that many of the evaluation's prompts, the first ones, with one noise each.
        probes: random vectors a prompt for the remainder.
        terms: last term of its series.
        iterations: of the power method.
        batch_size: prompts at once: a forward pass is kept for backward passes.
        seed: of the random vectors.

    Raises:
        ValueError: if a number is out of range.
    """

    prompts: int = 4
    probes: int = 4
    terms: int = 6
    iterations: int = 10
    batch_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.prompts, self.probes, self.iterations, self.batch_size) < 1 or self.terms < 2:
            raise ValueError(
                "noise_diagnostics needs at least one prompt, probe, iteration and prompt at once, and terms from 2 "
                f"on; got {self}."
            )

    def __call__(self, hypernet: Hypernet, generator: Generator, samples: Samples) -> dict[str, float]:
        """Measure at some samples.

        Returns:
            `kl_nats`, the mean of 1/2 |f|^2; `lipschitz`, the largest singular value of J that was found, and
            `remainder_bound_nats`, the theorem's bound with it, NaN from 1 on, where the theorem says nothing;
            `spectral_radius`, the largest, and `converging`, the share of samples where it is below 1; over these,
            NaN without any, `remainder_nats`, the mean of tr J - log|det(I + J)|, `remainder_standard_error`, that of
            the random vectors, and `truncation_nats`, about the most that the terms left out can come to.
        """
        rng = torch.Generator().manual_seed(self.seed)
        kls, remainders, radii, norms = [], [], [], []
        # Tensors of inference mode take no part in differentiation.
        with torch.inference_mode(False), torch.autocast(samples.noise.device.type, enabled=False):
            for start in range(0, len(samples), self.batch_size):
                part = slice(start, start + self.batch_size)
                conditioning = generator.encode(samples.prompts[part])
                noise = samples.noise[part].clone()

                def f(x0: Tensor, conditioning: Conditioning = conditioning) -> Tensor:
                    return hypernet(x0, conditioning)

                with differentiable(), torch.no_grad():
                    kls.append(noise_kl(f(noise)).double().cpu())
                norms.append(spectral_norm(f, noise, self.iterations, rng))
                estimates, rates = hutchinson_remainder(f, noise, self.probes, self.terms, rng)
                remainders.append(estimates)
                radii.append(rates.mean(dim=0))
        radius, dimensions, lipschitz = torch.cat(radii), samples.noise[0].numel(), float(torch.cat(norms).max())
        converging = radius < 1
        found = {
            "kl_nats": float(torch.cat(kls).mean()),
            "lipschitz": lipschitz,
            "remainder_bound_nats": remainder_bound(dimensions, lipschitz) if lipschitz < 1 else math.nan,
            "spectral_radius": float(radius.max()),
            "converging": float(converging.double().mean()),
        }
        if not converging.any():
            names = ("remainder_nats", "remainder_standard_error", "truncation_nats")
            return found | dict.fromkeys(names, math.nan)
        estimates = torch.cat(remainders, dim=1)[:, converging]
        # The prompts are given and not drawn: the spread is that of each one's probes.
        error = estimates.var(dim=0).mean().div(estimates.numel()).sqrt() if self.probes > 1 else math.nan
        return found | {
            "remainder_nats": float(estimates.mean()),
            "remainder_standard_error": float(error),
            "truncation_nats": truncation_bound(dimensions, float(radius[converging].max()), self.terms),
        }


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients on, attention by the one implementation that forward differentiation knows, compiled layers as they
    were written, for the same reason."""
    eager, attention = torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH)
    with torch.inference_mode(False), torch.enable_grad(), attention, eager:
        yield


def forward_product(f: NoiseFunction, x0: Tensor, direction: Tensor) -> Tensor:
    """J v for each sample."""
    with torch.no_grad(), forward_ad.dual_level():  # no_grad leaves forward differentiation alone
        dual = forward_ad.make_dual(x0.detach(), direction)
        tangent = forward_ad.unpack_dual(f(dual)).tangent
        return torch.zeros_like(x0) if tangent is None else tangent


def transposed_product(output: Tensor, x0: Tensor, direction: Tensor) -> Tensor:
    """J^T v for each sample."""
    (product,) = torch.autograd.grad(output, x0, direction, retain_graph=True)
    return product


def _random_signs(like: Tensor, rng: torch.Generator) -> Tensor:
    return (2 * torch.randint(2, like.shape, generator=rng) - 1).to(like)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Per sample, [B], in float64."""
    return (x.double() * y.double()).flatten(1).sum(dim=1)


def _unit(x: Tensor) -> Tensor:
    """Each sample divided by its length; zeros stay."""
    length = _dot(x, x).sqrt().clamp(min=torch.finfo(torch.float32).tiny).to(x.dtype)
    return x / length.view(-1, *[1] * (x.ndim - 1))
