"""The methods a comparison puts side by side: each turns noise and prompts into images."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hn.evaluation.peak_memory import PeakMemory
from hn.evaluation.samples import Samples
from hn.generators.base import Conditioning, Generator
from hn.hypernets.trainable import Trainable
from hn.rewards.ensemble import RewardEnsemble
from hn.search.base import Search, SearchResult, TracePoint
from hn.utils.progress import progress_bar


@dataclass(frozen=True)
class Candidates:
    """The N images of each of B samples among which a reward chose one.

    Attributes:
        scores: B lists of N scores; None for one that is not finite.
        chosen: B numbers of the chosen ones.
        images: B lists of N images [3, H, W] in [0, 1], on the CPU; B empty lists if they are not kept.
    """

    scores: list[list[float | None]]
    chosen: list[int]
    images: list[list[Tensor]]


@dataclass(frozen=True)
class MethodOutput:
    """What a method made of B samples.

    Attributes:
        images: [B, 3, H, W] in [0, 1].
        kl_nats: [B] the cost in noise space in nats, where the method has one.
        seconds: that the images took, prompts encoded beforehand.
        nfe: of a search, the forward passes of the backbone for one image, on average; else the method's own.
        earlier: of a search, what it had found after so many images of each sample: its `report_at`.
        peak_memory_bytes: most memory that was taken in that time, see `PeakMemory`; None where that is not known.
        trace: of a search, its reward against its budget.
        candidates: of a method that chooses, what it chose among.
    """

    images: Tensor
    kl_nats: Tensor | None
    seconds: float = float("nan")
    nfe: float | None = None
    earlier: dict[int, MethodOutput] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    trace: Sequence[TracePoint] = ()
    candidates: Candidates | None = None


class Method(ABC):
    """One way to make images of prompts.

    Args:
        name: its key in `results.json`.
        generator: the generator whose backbone is counted.
        nfe: forward passes of the backbone for one image; NaN while they are not known.
    """

    def __init__(self, name: str, generator: Generator, nfe: float) -> None:
        self.name, self.generator, self.nfe = name, generator, nfe

    @property
    def expected_nfe(self) -> float:
        """About how many forward passes an image takes, also before the first call; for estimates of time alone."""
        return self.nfe

    def __call__(self, samples: Samples) -> MethodOutput:
        """Images of the samples, and the time they took; the prompts are encoded before the clock starts."""
        conditioning = self.generator.encode(samples.prompts)
        peak = PeakMemory(samples.noise.device)
        started = _now(samples.noise)
        output = self.run(samples, conditioning)
        seconds = _now(output.images) - started
        return replace(output, seconds=seconds, peak_memory_bytes=peak.bytes())

    @abstractmethod
    def run(self, samples: Samples, conditioning: Conditioning) -> MethodOutput:
        """What it makes of the samples; its seconds are filled in afterwards."""


class Sampled(Method):
    """The frozen generator as it is; its cost in noise space is 0.

    Args:
        name: key in `results.json`.
        generator: the generator.
        steps: sampling steps; the generator's own number if not given.
    """

    def __init__(self, name: str, generator: Generator, steps: int | None = None) -> None:
        self.steps = generator.steps if steps is None else steps
        super().__init__(name, generator, nfe=self.steps)

    @torch.no_grad()
    def run(self, samples: Samples, conditioning: Conditioning) -> MethodOutput:
        images = self.generator.generate(samples.noise, conditioning, self.steps, samples.streams())
        return MethodOutput(images, kl_nats=samples.noise.new_zeros(len(samples)))


class TrainedMethod(Method):
    """The generator with a hypernetwork or a fine-tune.

    Args:
        network: bound to its generator.
        steps: sampling steps; the generator's own number if not given.
        name: key in `results.json`; the network's `method` if not given.
    """

    def __init__(self, network: Trainable, steps: int | None = None, name: str | None = None) -> None:
        self.steps = network.generator.steps if steps is None else steps
        super().__init__(name or network.method, network.image_generator, nfe=self.steps + network.extra_nfe)
        self.network = network

    @torch.no_grad()
    def run(self, samples: Samples, conditioning: Conditioning) -> MethodOutput:
        images, f = self.network.images(samples.noise, conditioning, self.steps, samples.streams())
        return MethodOutput(images, self.network.noise_kl(f))


class Searched(Method):
    """A test-time search on the trained reward. `nfe` is what the samples of a call took on average, known after it.

    Args:
        name: key in `results.json`.
        generator: the frozen generator.
        search: the search.
        reward: what it maximises.

    Raises:
        ValueError: if the search does not fit the generator.
    """

    def __init__(self, name: str, generator: Generator, search: Search, reward: RewardEnsemble) -> None:
        super().__init__(name, generator, nfe=float("nan"))
        try:
            search.check(generator)
        except ValueError as error:
            raise ValueError(f"The search {name} cannot run: {error}") from None
        self.search, self.reward = search, reward

    @property
    def expected_nfe(self) -> float:
        steps = self.generator.steps if self.search.steps is None else self.search.steps
        return self.search.evaluations * steps

    def run(self, samples: Samples, conditioning: Conditioning) -> MethodOutput:
        with progress_bar(self.name, unit="images") as progress:
            result = self.search(
                self.generator,
                self.reward.total,
                samples.prompts,
                samples.noise,
                samples.streams(),
                conditioning=conditioning,
                progress=progress,
            )
        output = self._output(samples, result)
        self.nfe = output.nfe
        return output

    def _output(self, samples: Samples, result: SearchResult) -> MethodOutput:
        last = result.trace[-1]
        return MethodOutput(
            images=result.images,
            kl_nats=self.search.kl_nats(samples.noise, result),
            seconds=last["seconds"],
            nfe=last["nfe"],
            trace=result.trace,
            earlier={count: self._output(samples, found) for count, found in result.earlier.items()},
        )


def _now(tensor: Tensor) -> float:
    """The clock, once the accelerator has caught up."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
