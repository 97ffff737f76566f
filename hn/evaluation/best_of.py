"""The best of several images of a method, by a reward."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from hn.evaluation.methods import Candidates, Method, MethodOutput, Sampled, TrainedMethod
from hn.evaluation.samples import Samples
from hn.generators.base import Conditioning
from hn.hypernets.base import Hypernet
from hn.search.base import RewardFunction, Search
from hn.search.best_of_n import BestOfN
from hn.search.warm_start import WarmStart


class BestOf(Method):
    """Another method, the best of N images in the place of each; its name stays.

    Candidate 0 is that method's own image. The others are from further noises, through the hypernetwork if the method
    has one; what a scheduler draws after the first step is the same for all.

    Args:
        method: the base, or the generator with a trained network.
        n: candidates for each image.
        reward: what chooses; the first of equal ones, and one that is not a number last.
        batch_size: most candidates that are made and scored at once.
        keep_images: whether the output has the images of all candidates.

    Raises:
        ValueError: if n or the batch size is below 1.
    """

    def __init__(
        self,
        method: Sampled | TrainedMethod,
        n: int,
        reward: RewardFunction,
        batch_size: int = 1,
        keep_images: bool = False,
    ) -> None:
        super().__init__(method.name, method.generator, nfe=n * method.nfe)
        network = method.network if isinstance(method, TrainedMethod) else None
        search: Search = BestOfN(n, method.steps, batch_size)
        self.search = WarmStart(search, network) if isinstance(network, Hypernet) else search
        self.reward, self.keep_images = reward, keep_images

    def run(self, samples: Samples, conditioning: Conditioning) -> MethodOutput:
        scores: list[list[float]] = [[] for _ in samples.prompts]
        images: list[list[Tensor]] = [[] for _ in samples.prompts]

        def observe(which: Sequence[int], made: Tensor, found: Tensor) -> None:
            for place, image, score in zip(which, made, found.tolist(), strict=True):
                scores[place].append(score)
                if self.keep_images:
                    images[place].append(image.float().cpu())

        streams = samples.streams()
        result = self.search(
            self.generator,
            self.reward,
            samples.prompts,
            samples.noise,
            streams,
            conditioning=conditioning,
            step_seeds=[stream.initial_seed() for stream in streams],  # those of the method itself
            observe=observe,
        )
        chosen = [max(range(len(own)), key=lambda k, own=own: _order(own[k])) for own in scores]
        finite = [[score if math.isfinite(score) else None for score in own] for own in scores]
        return MethodOutput(
            result.images,
            self.search.kl_nats(samples.noise, result),
            nfe=self.nfe,
            candidates=Candidates(finite, chosen, images),
        )


def _order(score: float) -> float:
    return -math.inf if math.isnan(score) else score
