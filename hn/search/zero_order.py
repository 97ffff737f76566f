"""Zero-order search: from a pivot noise to its best neighbour, again and again (Ma et al., arXiv 2501.09732)."""

import math
import time

import torch
from torch import Tensor

from hn.search.base import Search, SearchProblem, SearchResult, TracePoint


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
    ):
        super().__init__(steps, batch_size)
        if iterations < 1 or neighbours < 1:
            raise ValueError(f"iterations ({iterations}) and neighbours ({neighbours}) must be at least 1")
        if not 0 < radius < 2:
            raise ValueError(
                f"radius must be between 0 (the pivot itself) and 2 (its opposite on the shell), not {radius}"
            )
        self.iterations = iterations
        self.neighbours = neighbours
        self.radius = radius

    @property
    def evaluations(self) -> int:
        return 1 + self.iterations * self.neighbours

    @torch.no_grad()
    def search(self, problem: SearchProblem) -> SearchResult:
        started = time.perf_counter()
        numbers = range(len(problem.prompts))
        pivots, images = list(problem.noises), [None] * len(numbers)
        best = torch.full((len(numbers),), -torch.inf)
        trace: list[TracePoint] = []
        for iteration in range(self.iterations + 1):
            # Neighbours of the pivots as they are before the iteration, whatever the batches are.
            centres = list(pivots)
            copies = self.neighbours if iteration else 1
            pairs = [(copy, which) for copy in range(copies) for which in numbers]
            for start in range(0, len(pairs), self.batch_size):
                batch = [which for _, which in pairs[start : start + self.batch_size]]
                candidates = torch.stack([centres[which] for which in batch])
                if iteration:
                    draws = [problem.generator.sample_noise(1, problem.streams[which]) for which in batch]
                    candidates = shell_neighbours(candidates, torch.cat(draws), self.radius)
                batch_images, scores = problem.evaluate(candidates, batch)
                scores = scores.cpu().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
                for i, which in enumerate(batch):
                    if images[which] is None or scores[i] > best[which]:
                        # cloned: a view would keep the whole batch in memory
                        images[which], pivots[which] = batch_images[i].clone(), candidates[i].clone()
                        best[which] = scores[i]
            done = 1 + iteration * self.neighbours
            seconds = time.perf_counter() - started
            trace.append(
                TracePoint(nfe=done * problem.steps, reward_calls=done, seconds=seconds, best_reward=best.clone())
            )
        return SearchResult(torch.stack(images), torch.stack(pivots), best, trace)


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
