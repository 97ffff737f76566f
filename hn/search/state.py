"""What a search has found so far, prompt by prompt."""

import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hn.search.base import Search, SearchProblem, SearchResult, TracePoint


class SearchState:
    """The best image and noise of every prompt up to now, what they took, and which prompts go on.

    Of equal rewards the earlier image is kept; a reward that is not a number counts as minus infinity.

    Args:
        search: the search, with its number of images and its budget.
        problem: what is searched. The clock starts now.

    Attributes:
        limit: images of each prompt, at most.
        noises: the best noise of every prompt; until it has an image, the one to start from.
    """

    def __init__(self, search: Search, problem: SearchProblem):
        n_prompts = len(problem.prompts)
        self.limit = search.limit(problem.nfe_per_image, problem.spent_nfe)
        self.noises: list[Tensor] = list(problem.noises)
        self._problem, self._budget = problem, search.budget
        self._each = search.evaluations_per_iteration
        self._images: dict[int, Tensor] = {}
        # After each of a prompt's images: the best reward, and the seconds that the prompt has taken.
        self._rewards: list[list[float]] = [[] for _ in range(n_prompts)]
        self._seconds: list[list[float]] = [[] for _ in range(n_prompts)]
        self._to_improve, self._stale = [-torch.inf] * n_prompts, [0] * n_prompts
        self._has_ended = [False] * n_prompts
        self._earlier: dict[int, dict[int, tuple[Tensor, Tensor]]] = {count: {} for count in search.report_at}
        self._clock = time.perf_counter()

    @property
    def active(self) -> list[int]:
        """Numbers of the prompts whose search goes on."""
        return [which for which, has_ended in enumerate(self._has_ended) if not has_ended]

    def made(self, which: int) -> int:
        """Images of a prompt up to now."""
        return len(self._rewards[which])

    def certain(self, which: int) -> int:
        """Images of an active prompt that are to come, whatever their rewards."""
        left = self.limit - self.made(which)
        if self._budget.patience is None:
            return left
        return min(left, (self._budget.patience - self._stale[which]) * self._each)

    def add(self, which: Sequence[int], noises: Tensor, images: Tensor, scores: Tensor) -> None:
        """Take in a batch of images; waits for the device. The time since the last call is theirs, in equal shares.

        Args:
            which: n numbers of prompts; one may occur several times, its images in order.
            noises: [n, *noise_shape].
            images: [n, 3, H, W].
            scores: [n].
        """
        if self._problem.observe is not None:
            self._problem.observe(which, images.detach(), scores.detach())
        scores = scores.detach().cpu().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        values: list[float] = scores.tolist()
        now = time.perf_counter()
        share, self._clock = (now - self._clock) / len(which), now
        for i, prompt in enumerate(which):
            rewards, seconds = self._rewards[prompt], self._seconds[prompt]
            if not rewards or values[i] > rewards[-1]:
                # cloned: a view would keep the whole batch in memory
                self._images[prompt] = images[i].detach().clone()
                self.noises[prompt] = noises[i].detach().clone()
            rewards.append(max(values[i], rewards[-1]) if rewards else values[i])
            seconds.append((seconds[-1] if seconds else self._problem.spent_seconds) + share)
            if len(rewards) in self._earlier:
                self._earlier[len(rewards)][prompt] = (self._images[prompt], self.noises[prompt])
            if (len(rewards) - 1) % self._each == 0:
                self._end_iteration(prompt)
        if self._problem.progress is not None:
            made = sum(map(len, self._rewards))
            self._problem.progress(made, made + sum(self.limit - self.made(prompt) for prompt in self.active))

    def _end_iteration(self, prompt: int) -> None:
        budget, best = self._budget, self._rewards[prompt][-1]
        if best > self._to_improve[prompt] + budget.min_delta:
            self._to_improve[prompt], self._stale[prompt] = best, 0
        else:
            self._stale[prompt] += 1
        self._has_ended[prompt] = (
            self.made(prompt) >= self.limit
            or (budget.patience is not None and self._stale[prompt] >= budget.patience)
            or (budget.max_seconds is not None and self._seconds[prompt][-1] >= budget.max_seconds)
        )

    def result(self, counts: Iterable[int]) -> SearchResult:
        """What was found, once every prompt has an image.

        Args:
            counts: numbers of images at which the trace has a point, if they are within the limit; at `report_at` and
                at the end it has one anyway.
        """
        counts = sorted({count for count in counts if count < self.limit} | {*self._earlier, self.limit})
        trace = [self._point(count) for count in counts]
        earlier = {}
        for count, found in self._earlier.items():
            so_far = trace[: counts.index(count) + 1]
            last = [found.get(prompt, final) for prompt, final in enumerate(self._last())]
            earlier[count] = self._result(last, count, so_far, {})
        return self._result(self._last(), self.limit, trace, earlier)

    def _last(self) -> list[tuple[Tensor, Tensor]]:
        return [(self._images[prompt], noise) for prompt, noise in enumerate(self.noises)]

    def _result(
        self,
        found: Sequence[tuple[Tensor, Tensor]],
        count: int,
        trace: list[TracePoint],
        earlier: dict[int, SearchResult],
    ) -> SearchResult:
        """`found` holds the prompts' images and noises after `count` images, or fewer where they ended before."""
        calls = torch.tensor([min(count, len(rewards)) for rewards in self._rewards])
        return SearchResult(
            images=torch.stack([image for image, _ in found]),
            noises=torch.stack([noise for _, noise in found]),
            rewards=trace[-1]["best_reward"],
            nfe=self._problem.spent_nfe + calls * self._problem.nfe_per_image,
            reward_calls=calls,
            trace=trace,
            earlier=earlier,
        )

    def _point(self, count: int) -> TracePoint:
        places = [min(count, len(rewards)) - 1 for rewards in self._rewards]
        calls = 1 + sum(places) / len(places)
        return TracePoint(
            nfe=self._problem.spent_nfe + calls * self._problem.nfe_per_image,
            reward_calls=calls,
            seconds=sum(seconds[place] for seconds, place in zip(self._seconds, places, strict=True)),
            best_reward=torch.tensor(
                [rewards[place] for rewards, place in zip(self._rewards, places, strict=True)], dtype=torch.float32
            ),
        )
