"""A search that starts where a hypernetwork leads."""

import dataclasses
import time
from typing import Self

import torch

from hn.generators.base import Generator
from hn.hypernets.base import Hypernet
from hn.search.base import Search, SearchProblem, SearchResult


class WarmStart(Search):
    """Another search, from the hypernetwork's noise x0 + f(x0) in the place of x0.

    The hypernetwork's pass counts: one more function evaluation of the backbone at every point of the trace and against
    the budget, and its time. `kl_nats` is 1/2 |found - x0|^2, so it has both the hypernetwork's share and the search's.

    Args:
        search: a search that moves on from the noise it is given, such as `Reno`; its `steps`, `batch_size`, `budget`
            and `report_at` hold.
        hypernet: a hypernetwork that is bound to the generator. `hn compare` fills in the trained one.

    Raises:
        ValueError: if the search does not move on from the noise it is given.
    """

    def __init__(self, search: Search, hypernet: Hypernet | None = None):
        if not search.is_local:
            raise ValueError(
                f"{type(search).__name__} draws its candidates anew and would forget where it started; a warm start "
                "needs a search that moves on from its start, such as hn.search.reno.Reno"
            )
        self.inner = search
        self.hypernet = hypernet
        super().__init__(search.steps, search.batch_size, search.budget, search.report_at)

    @property
    def evaluations(self) -> int:
        return self.inner.evaluations

    @property
    def evaluations_per_iteration(self) -> int:
        return self.inner.evaluations_per_iteration

    def check(self, generator: Generator, spent_nfe: int = 0) -> None:
        self.inner.check(generator, spent_nfe + 1)

    def bound(self, hypernet: Hypernet) -> Self:
        """The same warm start from this hypernetwork."""
        return type(self)(self.inner, hypernet)

    def search(self, problem: SearchProblem) -> SearchResult:
        if self.hypernet is None:
            raise ValueError("a warm start needs a hypernetwork: WarmStart(search, hypernet)")
        started = time.perf_counter()
        with torch.no_grad():
            parts = torch.arange(len(problem.prompts)).split(self.batch_size)
            noises = torch.cat([_modulated(self.hypernet, problem, part) for part in parts])
        if noises.is_cuda:
            torch.cuda.synchronize(noises.device)
        seconds = (time.perf_counter() - started) / len(problem.prompts)
        return self.inner.search(
            dataclasses.replace(
                problem,
                noises=noises,
                spent_nfe=problem.spent_nfe + 1,
                spent_seconds=problem.spent_seconds + seconds,
            )
        )


def _modulated(hypernet: Hypernet, problem: SearchProblem, which: torch.Tensor) -> torch.Tensor:
    conditioning = {name: tensor[which.to(tensor.device)] for name, tensor in problem.conditioning.items()}
    return hypernet.modulate(problem.noises[which.to(problem.noises.device)], conditioning)
