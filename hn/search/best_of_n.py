"""Best-of-N: of N noises for each prompt, the one whose image the reward likes best."""

import math
import time
from typing import ClassVar

import torch
from torch import Tensor

from hn.search.base import Search, SearchProblem, SearchResult, TracePoint


class BestOfN(Search):
    """Random search (Ma et al., arXiv 2501.09732) without gradients, so the reward need not be differentiable.

    The noise given to the search is the first candidate, the others are drawn from N(0, I). A smaller N has the first
    candidates of a larger one, hence the trace has points at 1, 2, 4, ... and N candidates. Of equal rewards the
    earlier candidate is kept; a reward that is not a number counts as minus infinity.

    Args:
        n: candidates for each prompt.
        steps: sampling steps for each image; the generator's own number if not given.
        batch_size: most images generated and scored at once; bounds memory and does not change the result.

    Raises:
        ValueError: if an argument is below 1.
    """

    is_local: ClassVar[bool] = False

    def __init__(self, n: int = 50, steps: int | None = None, batch_size: int = 16):
        super().__init__(steps, batch_size)
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        self.n = n

    @property
    def evaluations(self) -> int:
        return self.n

    def kl_nats(self, noise: Tensor, found: Tensor) -> Tensor:
        """log N - (N - 1) / N for every prompt: the exact KL of the best of N from the noise it selects among."""
        return noise.new_full((len(noise),), math.log(self.n) - (self.n - 1) / self.n)

    @torch.no_grad()
    def search(self, problem: SearchProblem) -> SearchResult:
        n_prompts = len(problem.prompts)
        best = torch.full((n_prompts,), -torch.inf)
        images, noises = [None] * n_prompts, list(problem.noises)
        trace: list[TracePoint] = []
        seconds = 0.0
        # Candidate-major: all first candidates, then all second ones; batches may run across the border.
        pairs = [(candidate, which) for candidate in range(self.n) for which in range(n_prompts)]
        for start in range(0, len(pairs), self.batch_size):
            batch = pairs[start : start + self.batch_size]
            started = time.perf_counter()
            candidates = torch.stack([self._candidate(problem, *pair) for pair in batch])
            batch_images, scores = problem.evaluate(candidates, [which for _, which in batch])
            # .cpu() waits for the device, so the clock is read afterwards
            scores = scores.cpu().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            share = (time.perf_counter() - started) / len(batch)
            for i, (candidate, which) in enumerate(batch):
                seconds += share  # images of a batch share its time evenly
                if images[which] is None or scores[i] > best[which]:
                    # cloned: a view would keep the whole batch in memory
                    images[which], noises[which] = batch_images[i].clone(), candidates[i].clone()
                    best[which] = scores[i]
                done = candidate + 1
                if which == n_prompts - 1 and (done == self.n or done & (done - 1) == 0):
                    nfe = done * problem.steps
                    trace.append(TracePoint(nfe=nfe, reward_calls=done, seconds=seconds, best_reward=best.clone()))
        return SearchResult(torch.stack(images), torch.stack(noises), best, trace)

    @staticmethod
    def _candidate(problem: SearchProblem, candidate: int, which: int) -> torch.Tensor:
        if candidate == 0:
            return problem.noises[which]
        return problem.generator.sample_noise(1, problem.streams[which])[0]
