"""Best-of-N: of N noises for each prompt, the one whose image the reward likes best."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import ClassVar

import torch
from torch import Tensor

from hn.search.base import Search, SearchProblem, SearchResult
from hn.search.budget import Budget
from hn.search.state import SearchState


class BestOfN(Search):
    """Random search (Ma et al., arXiv 2501.09732) without gradients, so the reward need not be differentiable.

    The noise given to the search is the first candidate, the others are drawn from N(0, I). A smaller N has the first
    candidates of a larger one, hence the trace has points at 1, 2, 4, ... and N candidates. Of equal rewards the
    earlier candidate is kept; a reward that is not a number counts as minus infinity. To a `Budget` an iteration is a
    candidate.

    Args:
        n: candidates for each prompt.
        steps: sampling steps for each image; the generator's own number if not given.
        batch_size: most images generated and scored at once; bounds memory and does not change the result.
        budget: what ends a prompt's search early.
        report_at: numbers of candidates below n at which the result is reported too.

    Raises:
        ValueError: if an argument is out of range.
    """

    is_local: ClassVar[bool] = False

    def __init__(
        self,
        n: int = 50,
        steps: int | None = None,
        batch_size: int = 16,
        budget: Budget | None = None,
        report_at: Sequence[int] = (),
    ):
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        self.n = n
        super().__init__(steps, batch_size, budget, report_at)

    @property
    def evaluations(self) -> int:
        return self.n

    def kl_nats(self, noise: Tensor, result: SearchResult) -> Tensor:
        """log N - (N - 1) / N for every prompt: the exact KL of the best of N from the noise it selects among.

        It is an approximation for a prompt whose search `patience` ended, because its N depends on the rewards.
        """
        n = result.reward_calls.to(noise)
        return n.log() - (n - 1) / n

    @torch.no_grad()
    def search(self, problem: SearchProblem) -> SearchResult:
        state = SearchState(self, problem)
        while active := state.active:
            # Candidate-major: all first candidates, then all second ones; batches may run across the border.
            batch = list(islice(heapq.merge(*(_upcoming(state, which) for which in active)), self.batch_size))
            prompts = [which for _, which in batch]
            candidates = problem.modulate(torch.stack([self._candidate(problem, *pair) for pair in batch]), prompts)
            images, scores = problem.evaluate(candidates, prompts)
            state.add(prompts, candidates, images, scores)
        return state.result(2**power for power in range(self.n.bit_length()))

    @staticmethod
    def _candidate(problem: SearchProblem, candidate: int, which: int) -> Tensor:
        if candidate == 0:
            return problem.noises[which]
        return problem.generator.sample_noise(1, problem.streams[which])[0]


def _upcoming(state: SearchState, which: int) -> Iterator[tuple[int, int]]:
    """The next candidates of a prompt that will be needed for certain, each with the prompt's number."""
    made = state.made(which)
    return zip(range(made, made + state.certain(which)), repeat(which), strict=False)
