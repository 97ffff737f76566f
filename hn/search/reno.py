"""ReNO: gradient ascent of a reward on the noise itself (Eyring et al., arXiv 2406.04312)."""

import time

import torch
from torch import Tensor

from hn.precision import full_precision
from hn.search.base import Search, SearchProblem, SearchResult, TracePoint
from hn.search.precondition import GradientTransform


class Reno(Search):
    """Stochastic gradient descent on each prompt's noise x, keeping the image with the best reward.

        minimise  -reward(image(x), prompt) + regulariser_weight * (|x|^2 / 2 - (d - 1) log |x|)

    The regulariser is the negative log-density of the norm of d standard normal numbers: it keeps |x| near sqrt(d). It
    steers the search but does not count when images are compared. Of equal rewards the earlier image is kept. The last
    iteration is evaluated, not stepped. A prompt whose reward stops being a number keeps its best image so far.

    Gradient, clipping and momentum are each prompt's own, whatever it is batched with.

    Args:
        iterations: images generated and scored for each prompt.
        learning_rate: of the descent.
        momentum: of the descent, in [0, 1).
        nesterov: whether the momentum looks ahead, as `torch.optim.SGD` does it.
        gradient_clip: largest norm of a prompt's gradient, regulariser included; None to leave it as it is.
        regulariser_weight: see above.
        precondition: applied to each prompt's gradient, regulariser included, before it is clipped; for example
            `WhiteNoiseProjection` (arXiv 2602.08646), best with a `regulariser_weight` of 0. None is ReNO as published.
        steps: sampling steps for each image; the generator's own number if not given.
        batch_size: most prompts searched at once; bounds memory and does not change the result.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        iterations: int = 50,
        learning_rate: float = 5.0,
        momentum: float = 0.9,
        nesterov: bool = True,
        gradient_clip: float | None = 0.1,
        regulariser_weight: float = 0.01,
        precondition: GradientTransform | None = None,
        steps: int | None = None,
        batch_size: int = 16,
    ):
        super().__init__(steps, batch_size)
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {iterations}")
        if learning_rate <= 0 or not 0 <= momentum < 1 or regulariser_weight < 0:
            raise ValueError(
                "learning_rate must be positive, momentum in [0, 1) and regulariser_weight not negative; got "
                f"{learning_rate}, {momentum} and {regulariser_weight}"
            )
        if gradient_clip is not None and gradient_clip <= 0:
            raise ValueError(f"gradient_clip must be positive, or None for no clipping, not {gradient_clip}")
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.gradient_clip = gradient_clip
        self.regulariser_weight = regulariser_weight
        self.precondition = precondition

    @property
    def evaluations(self) -> int:
        return self.iterations

    def search(self, problem: SearchProblem) -> SearchResult:
        if self.precondition is not None:
            self.precondition.check(problem.noises.shape[1:])
        numbers = range(len(problem.prompts))
        return _joined(
            [
                self._search_some(problem, numbers[start : start + self.batch_size])
                for start in numbers[:: self.batch_size]
            ]
        )

    def _search_some(self, problem: SearchProblem, which: range) -> SearchResult:
        started = time.perf_counter()
        noises = problem.noises[which.start : which.stop]
        velocity = torch.zeros_like(noises)
        trace: list[TracePoint] = []
        for iteration in range(self.iterations):
            is_last = iteration == self.iterations - 1
            noises = noises.detach().requires_grad_(not is_last)
            with torch.set_grad_enabled(not is_last):
                images, scores = problem.evaluate(noises, which)
                loss = self.regulariser_weight * norm_regulariser(noises) - scores
            if iteration == 0:
                best_images, best_noises, best = images.detach(), noises.detach(), scores.detach()
            else:
                better = scores.detach() > best
                best_images = _where(better, images.detach(), best_images)
                best_noises = _where(better, noises.detach(), best_noises)
                best = _where(better, scores.detach(), best)
            if not is_last:
                (gradient,) = torch.autograd.grad(loss.sum(), noises)
                if self.precondition is not None:
                    gradient = self.precondition(gradient)
                noises, velocity = self._step(noises.detach(), velocity, gradient)
            trace.append(
                TracePoint(
                    nfe=(iteration + 1) * problem.steps,
                    reward_calls=iteration + 1,
                    best_reward=best.cpu(),  # waits for the device, so the clock is read afterwards
                    seconds=time.perf_counter() - started,
                )
            )
        return SearchResult(best_images, best_noises, best.cpu(), trace)

    def _step(self, noises: Tensor, velocity: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """One step of `torch.optim.SGD` after `clip_grad_norm_`, for each sample by itself."""
        if self.gradient_clip is not None:
            gradient = gradient * _per_sample((self.gradient_clip / (_norms(gradient) + 1e-6)).clamp(max=1), gradient)
        velocity = self.momentum * velocity + gradient
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        return noises - self.learning_rate * direction, velocity


def norm_regulariser(noises: Tensor) -> Tensor:
    """|x|^2 / 2 - (d - 1) log |x| for each sample x of d numbers: [B, ...] -> [B]; computed in float32 at least.

    Up to a constant the negative log-density of the norm of x ~ N(0, I); least at |x|^2 = d - 1.
    """
    norms = _norms(full_precision(noises))
    return norms.square() / 2 - (noises[0].numel() - 1) * norms.log()


def _norms(samples: Tensor) -> Tensor:
    return torch.linalg.vector_norm(samples.flatten(1), dim=1)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] with as many dimensions as `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(_per_sample(chosen, new), new, old)


def _joined(parts: list[SearchResult]) -> SearchResult:
    """The results of groups of prompts that were searched one after the other."""
    trace = [
        TracePoint(
            nfe=points[0]["nfe"],
            reward_calls=points[0]["reward_calls"],
            best_reward=torch.cat([point["best_reward"] for point in points]),
            seconds=sum(point["seconds"] for point in points),
        )
        for points in zip(*(part.trace for part in parts), strict=True)
    ]
    return SearchResult(
        images=torch.cat([part.images for part in parts]),
        noises=torch.cat([part.noises for part in parts]),
        rewards=torch.cat([part.rewards for part in parts]),
        trace=trace,
    )
