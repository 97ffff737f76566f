"""Zero-order search: from a pivot noise to its best neighbour, again and again (Ma et al., arXiv 2501.09732)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hn.search.base import Search, SearchProblem, SearchResult
from hn.search.budget import Budget
from hn.search.state import SearchState


class ZeroOrderSearch(Search):
    """Local search without gradients, so the reward need not be differentiable.

    The noise given to the search is the first pivot. Each iteration draws neighbours of the pivot, and the best of them
    becomes the pivot if it is better; otherwise the pivot stays. (The paper moves to the best candidate and leaves open
    whether the pivot is one; its score is known, so counting it costs nothing, and the best image is never lost.) Of
    equal rewards the earlier noise is kept; a reward that is not a number counts as minus infinity.

    Neighbours are the authors' (`shell_neighbours`): as long as the pivot and at a fixed distance from it, so that the
    search never leaves the shell on which Gaussian noise lies. One iteration with as many candidates of N(0, I) in the
    place of neighbours would be the paper's random search, which is `BestOfN`.

    Args:
        iterations: moves of the pivot.
        neighbours: drawn in each iteration; with the first pivot, 1 + iterations * neighbours images for each prompt.
        radius: distance of a neighbour from its pivot as a share of the pivot's norm, in (0, 2); the default is a
            cosine of 0.95 between the two, as in the authors' code.
        steps: sampling steps for each image; the generator's own number if not given.
        batch_size: most images generated and scored at once; bounds memory and does not change the result.
        budget: what ends a prompt's search early.
        report_at: numbers of images, 1 + k * neighbours, at which the result is reported too.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        iterations: int = 12,
        neighbours: int = 4,
        radius: float = math.sqrt(0.1),
        steps: int | None = None,
        batch_size: int = 16,
        budget: Budget | None = None,
        report_at: Sequence[int] = (),
    ):
        if iterations < 1 or neighbours < 1:
            raise ValueError(f"iterations ({iterations}) and neighbours ({neighbours}) must be at least 1")
        if not 0 < radius < 2:
            raise ValueError(
                f"radius must be between 0 (the pivot itself) and 2 (its opposite on the shell), not {radius}"
            )
        self.iterations = iterations
        self.neighbours = neighbours
        self.radius = radius
        super().__init__(steps, batch_size, budget, report_at)

    @property
    def evaluations(self) -> int:
        return 1 + self.iterations * self.neighbours

    @property
    def evaluations_per_iteration(self) -> int:
        return self.neighbours

    @torch.no_grad()
    def search(self, problem: SearchProblem) -> SearchResult:
        state = SearchState(self, problem)
        is_first = True
        while active := state.active:
            # Neighbours of the pivots as they are before the iteration, whatever the batches are.
            pivots = list(state.noises)
            moves = active if is_first else active * self.neighbours
            for start in range(0, len(moves), self.batch_size):
                batch = moves[start : start + self.batch_size]
                candidates = torch.stack([pivots[which] for which in batch])
                if not is_first:
                    draws = [problem.generator.sample_noise(1, problem.streams[which]) for which in batch]
                    candidates = shell_neighbours(candidates, torch.cat(draws), self.radius)
                images, scores = problem.evaluate(candidates, batch)
                state.add(batch, candidates, images, scores)
            is_first = False
        return state.result(range(1, self.evaluations, self.neighbours))


def shell_neighbours(pivots: Tensor, draws: Tensor, radius: float) -> Tensor:
    """Points on each pivot's sphere around the origin, at a fixed distance from it, in random directions.

        |x| (c x / |x| + sqrt(1 - c^2) w),   c = 1 - radius^2 / 2

    where w is the unit vector along the part of the draw that is orthogonal to the pivot x. From N(0, I) draws, w is
    uniform among the directions orthogonal to x; |neighbour| = |x| and |neighbour - x| = radius |x|.

    Args:
        pivots: x [B, ...], none of them 0.
        draws: [B, ...] ~ N(0, I).
        radius: distance as a share of |x|, in (0, 2).

    Returns:
        [B, ...] in the pivots' data type; computed in float64.
    """
    x, v = pivots.flatten(1).double(), draws.flatten(1).double()
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    unit = x / norm
    orthogonal = torch.nn.functional.normalize(v - (v * unit).sum(1, keepdim=True) * unit, dim=1)
    cosine = 1 - radius**2 / 2
    return (norm * (cosine * unit + math.sqrt(1 - cosine**2) * orthogonal)).view_as(pivots).to(pivots.dtype)
