"""A search among the noises to which a hypernetwork leads."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from hn.generators.base import Generator
from hn.hypernets.base import Hypernet
from hn.search.base import Search, SearchProblem, SearchResult


class WarmStart(Search):
    """Another search, with the hypernetwork's noise x0 + f(x0) in the place of x0.

    A search that moves on from its start (ReNO, zero-order search) starts at x0 + f(x0). One that draws candidates
    (Best-of-N) chooses among x0 + f(x0) of all of them. The backbone passes of f count at every point of the trace and
    against the budget, and so does the time of f.

    Args:
        search: whose `steps`, `batch_size`, `budget` and `report_at` hold.
        hypernet: a hypernetwork that is bound to the generator. `hn compare` fills in the trained one.
        start: which one `hn compare` fills in: the experiment's own, or one of `comparison.trained` by its name there.
    """

    def __init__(self, search: Search, hypernet: Hypernet | None = None, start: str = "hypernetwork"):
        self.inner = search
        self.hypernet = hypernet
        self.start = start
        super().__init__(search.steps, search.batch_size, search.budget, search.report_at)

    @property
    def is_local(self) -> bool:
        return self.inner.is_local

    @property
    def evaluations(self) -> int:
        return self.inner.evaluations

    @property
    def evaluations_per_iteration(self) -> int:
        return self.inner.evaluations_per_iteration

    @property
    def _extra_nfe(self) -> int:
        """Backbone passes of f for each noise; 1, the most, while the hypernetwork is not known."""
        return 1 if self.hypernet is None else self.hypernet.extra_nfe

    def check(self, generator: Generator, spent_nfe: int = 0) -> None:
        if self.is_local:
            self.inner.check(generator, spent_nfe + self._extra_nfe)
        else:
            self.inner.limit(self.steps_of(generator) + self._extra_nfe, spent_nfe)

    def bound(self, hypernet: Hypernet) -> Self:
        """The same warm start from this hypernetwork."""
        return type(self)(self.inner, hypernet, self.start)

    def search(self, problem: SearchProblem) -> SearchResult:
        if self.hypernet is None:
            raise ValueError("a warm start needs a hypernetwork: WarmStart(search, hypernet)")
        hypernet = self.hypernet

        def modulate(noises: Tensor, which: Sequence[int]) -> Tensor:
            index = torch.as_tensor(which)
            conditioning = {name: tensor[index.to(tensor.device)] for name, tensor in problem.conditioning.items()}
            with torch.no_grad():
                return hypernet.modulate(noises, conditioning)

        started = time.perf_counter()
        places = range(len(problem.prompts))
        parts = [places[start : start + self.batch_size] for start in places[:: self.batch_size]]
        noises = torch.cat([modulate(problem.noises[part.start : part.stop], part) for part in parts])
        if noises.is_cuda:
            torch.cuda.synchronize(noises.device)
        start_kl = 0.5 * (noises - problem.noises).flatten(1).square().sum(1)
        if not self.is_local:
            problem = dataclasses.replace(problem, modulate=modulate, modulation_nfe=hypernet.extra_nfe)
        else:
            seconds = (time.perf_counter() - started) / len(problem.prompts)
            problem = dataclasses.replace(
                problem,
                noises=noises,
                spent_nfe=problem.spent_nfe + hypernet.extra_nfe,
                spent_seconds=problem.spent_seconds + seconds,
            )
        result = self.inner.search(problem)
        earlier = {count: dataclasses.replace(found, start_kl=start_kl) for count, found in result.earlier.items()}
        return dataclasses.replace(result, start_kl=start_kl, earlier=earlier)

    def kl_nats(self, noise: Tensor, result: SearchResult) -> Tensor:
        """What f and the search spent together, [B] nats.

        Of a search that moves on from its start 1/2 |found - noise|^2. Of one that chooses among drawn candidates the
        sum of 1/2 |f|^2 and the cost of choosing, the chain rule of the KL divergence with f's mean cost for that of
        the chosen ones.
        """
        spent = self.inner.kl_nats(noise, result)
        return spent if self.is_local or result.start_kl is None else spent + result.start_kl.to(spent)
