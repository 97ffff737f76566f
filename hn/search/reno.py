"""ReNO: gradient ascent of a reward on the noise itself (Eyring et al., arXiv 2406.04312)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hn.generators.base import Generator
from hn.search.base import Search, SearchProblem, SearchResult
from hn.search.budget import Budget
from hn.search.precondition import GradientTransform
from hn.search.state import SearchState
from hn.utils.dtype import full_precision


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
        budget: what ends a prompt's search early.
        report_at: numbers of iterations at which the result is reported too: that of a search with so many.

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
        budget: Budget | None = None,
        report_at: Sequence[int] = (),
    ):
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
        super().__init__(steps, batch_size, budget, report_at)

    @property
    def evaluations(self) -> int:
        return self.iterations

    def check(self, generator: Generator, spent_nfe: int = 0) -> None:
        super().check(generator, spent_nfe)
        if not generator.differentiable:
            raise ValueError(f"Reno follows gradients, which a {type(generator).__name__} does not give")
        if self.precondition is not None:
            self.precondition.check(generator.noise_shape)

    def search(self, problem: SearchProblem) -> SearchResult:
        state = SearchState(self, problem)
        numbers = list(range(len(problem.prompts)))
        for start in numbers[:: self.batch_size]:
            self._search_some(problem, state, numbers[start : start + self.batch_size])
        return state.result(range(1, self.iterations))

    def _search_some(self, problem: SearchProblem, state: SearchState, which: list[int]) -> None:
        noises = problem.noises[which]
        velocity = torch.zeros_like(noises)
        for iteration in range(state.limit):
            is_last = iteration == state.limit - 1
            noises = noises.detach().requires_grad_(not is_last)
            with torch.set_grad_enabled(not is_last):
                images, scores = problem.evaluate(noises, which)
                loss = self.regulariser_weight * norm_regulariser(noises) - scores
            state.add(which, noises, images, scores)
            active = set(state.active)
            places = [place for place, prompt in enumerate(which) if prompt in active]
            if not places:
                return
            (gradient,) = torch.autograd.grad(loss.sum(), noises)
            noises = noises.detach()
            if len(places) < len(which):
                which = [which[place] for place in places]
                noises, velocity, gradient = noises[places], velocity[places], gradient[places]
            if self.precondition is not None:
                gradient = self.precondition(gradient)
            noises, velocity = self._step(noises, velocity, gradient)

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
