"""What every test-time search takes and gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypedDict

import torch
from torch import Tensor

from hn.generators.base import Conditioning, Generator
from hn.search.budget import Budget

RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
"""(images [B, 3, H, W] in [0, 1], B prompts) -> scores [B], higher is better."""

Modulation = Callable[[Tensor, Sequence[int]], Tensor]
"""(noises [n, *noise_shape], n numbers of prompts) -> noises x0 + f(x0) of the same shape."""

ProgressFunction = Callable[[int, int], None]
"""(images made, images at most), both over all prompts; called after every batch of images."""

Observer = Callable[[Sequence[int], Tensor, Tensor], None]
"""Told of every batch of images: n numbers of prompts, images [n, 3, H, W] and scores [n]; a prompt's come in order."""


class TracePoint(TypedDict):
    """The state of a search once every prompt has had a certain number of images, or all that its `Budget` allowed.

    `nfe` (function evaluations of the backbone, forward ones only) and `reward_calls` are means over the prompts, which
    differ where some ended early; `seconds` is the time that all prompts together took up to here, once they were
    encoded.
    """

    nfe: float
    reward_calls: float
    seconds: float
    best_reward: Tensor  # [B] float32 on the CPU


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best image found for each of B prompts.

    Attributes:
        images: [B, 3, H, W] in [0, 1], on the generator's device.
        noises: [B, *noise_shape], the noises of these images.
        rewards: [B] float32 on the CPU, the rewards of these images.
        nfe: [B] int64, function evaluations of the backbone, forward ones only, that each prompt took.
        reward_calls: [B] int64, images that were made and scored for each prompt.
        trace: reward against budget, in order of budget; the last point holds `rewards`. Its points are those of the
            search's own number of iterations, however early prompts ended.
        earlier: for each number of `report_at`, the result of a search with that many `evaluations`.
        start_kl: [B] nats that a hypernetwork spent on the noise before the search; None without one.
    """

    images: Tensor
    noises: Tensor
    rewards: Tensor
    nfe: Tensor
    reward_calls: Tensor
    trace: list[TracePoint]
    earlier: Mapping[int, Self] = field(default_factory=dict)
    start_kl: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SearchProblem:
    """What is searched: B prompts with their starting noises and sources of randomness.

    Every prompt has seeds of its own, so that its result does not depend on the prompts it is batched with. What was
    spent on each prompt beforehand, `spent_nfe` and `spent_seconds`, counts, as do the function evaluations of
    `modulate`, `modulation_nfe` for each noise. A search that draws noises of its own passes them through `modulate`.
    """

    generator: Generator
    reward: RewardFunction
    prompts: list[str]
    conditioning: Conditioning
    noises: Tensor
    streams: list[torch.Generator]
    step_seeds: list[int]
    steps: int
    progress: ProgressFunction | None = None
    observe: Observer | None = None
    spent_nfe: int = 0
    spent_seconds: float = 0.0
    modulate: Modulation = lambda noises, which: noises
    modulation_nfe: int = 0

    @property
    def nfe_per_image(self) -> int:
        """Function evaluations of the backbone for each image."""
        return self.steps + self.modulation_nfe

    def evaluate(self, noises: Tensor, which: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images [n, 3, H, W] and scores [n] of the noises [n, ...] for the prompts numbered `which`.

        Differentiable in the noises. Whatever noise the scheduler draws after the first step is the same at every call,
        so that a search compares starting noises and nothing else.
        """
        index = torch.as_tensor(which, device=noises.device)
        conditioning = {name: tensor[index.to(tensor.device)] for name, tensor in self.conditioning.items()}
        rngs = [torch.Generator().manual_seed(self.step_seeds[i]) for i in which]
        images = self.generator.generate(noises, conditioning, self.steps, rngs)
        prompts = [self.prompts[i] for i in which]
        scores = self.reward(images, prompts)
        if not isinstance(scores, Tensor) or scores.shape != (len(prompts),):
            raise ValueError(
                f"a search needs a reward that returns one score per image, a tensor [{len(prompts)}], not "
                f"{list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__}; "
                "for a RewardEnsemble, pass its method `total`"
            )
        return images, scores.float()


class Search(ABC):
    """Looks for a better noise for each prompt, within a budget.

    A subclass sets its own attributes before it calls `__init__`, which reads `evaluations`.

    Args:
        steps: sampling steps for each image; the generator's own number if not given.
        batch_size: most images that are generated and scored at once; bounds memory and does not change the result.
        budget: what ends a prompt's search early; nothing if not given.
        report_at: numbers of images for each prompt, below `evaluations`, at which the result is reported too
            (`SearchResult.earlier`): one run then answers for several budgets. An iteration must end at each of them.

    Raises:
        ValueError: if an argument is out of range.
    """

    is_local: ClassVar[bool] = True
    """Whether it moves on from the noise it is given, rather than drawing candidates of its own."""

    def __init__(
        self,
        steps: int | None = None,
        batch_size: int = 16,
        budget: Budget | None = None,
        report_at: Sequence[int] = (),
    ):
        if (steps is not None and steps < 1) or batch_size < 1:
            raise ValueError(f"steps ({steps}) and batch_size ({batch_size}) must be at least 1")
        most, each = self.evaluations, self.evaluations_per_iteration
        wrong = [count for count in report_at if not 1 <= count < most or (count - 1) % each]
        if wrong:
            allowed = f"1 to {most - 1}" if each == 1 else f"1, {1 + each}, {1 + 2 * each}, ... below {most}"
            raise ValueError(f"report_at has {wrong[0]}; {type(self).__name__} can report at {allowed} images")
        self.steps = steps
        self.batch_size = batch_size
        self.budget = Budget() if budget is None else budget
        self.report_at = tuple(sorted(set(report_at)))

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Images that it makes for each prompt, if no budget ends it."""

    @property
    def evaluations_per_iteration(self) -> int:
        """Images of a prompt in each iteration but the first, which has one."""
        return 1

    def limit(self, steps: int, spent_nfe: int = 0) -> int:
        """The most images of each prompt that `evaluations` and the budget's `max_nfe` allow.

        Args:
            steps: sampling steps for each image.
            spent_nfe: function evaluations that each prompt took beforehand.

        Raises:
            ValueError: if not even one image is allowed, or fewer than a number of `report_at`.
        """
        limit, each = self.evaluations, self.evaluations_per_iteration
        max_nfe = self.budget.max_nfe
        if max_nfe is not None:
            affordable = (max_nfe - spent_nfe) // steps
            if affordable < 1:
                raise ValueError(f"max_nfe ({max_nfe}) is too small: one image needs {spent_nfe + steps} evaluations")
            limit = min(limit, 1 + (affordable - 1) // each * each)
        if self.report_at and self.report_at[-1] > limit:
            raise ValueError(f"max_nfe ({max_nfe}) ends at {limit} images, before report_at's {self.report_at[-1]}")
        return limit

    def check(self, generator: Generator, spent_nfe: int = 0) -> None:
        """Raises:
        ValueError: if it cannot search this generator's noise within its budget.
        """
        self.limit(self.steps_of(generator), spent_nfe)

    def steps_of(self, generator: Generator) -> int:
        """Sampling steps for each image."""
        return generator.steps if self.steps is None else self.steps

    def __call__(
        self,
        generator: Generator,
        reward: RewardFunction,
        prompts: Sequence[str],
        noise: Tensor | None = None,
        rng: torch.Generator | Sequence[torch.Generator] | None = None,
        conditioning: Conditioning | None = None,
        progress: ProgressFunction | None = None,
        step_seeds: Sequence[int] | None = None,
        observe: Observer | None = None,
    ) -> SearchResult:
        """Search for all prompts at once; the result equals that of searching for one prompt after the other.

        Works inside `torch.no_grad` and `torch.inference_mode` too.

        Args:
            generator: the frozen generator; must treat the samples of a batch independently, as must the reward.
            reward: (images, prompts) -> scores [B].
            prompts: B prompts.
            noise: where to start, [B, *noise_shape]; drawn from N(0, I) if not given.
            rng: the source of all randomness, or one source per prompt, so that a prompt's result does not depend on
                the others in the batch; torch's default one if not given.
            conditioning: `generator.encode(prompts)`, where it is there already.
            progress: called after every batch of images with the number made and the most that there will be.
            step_seeds: of what some schedulers draw after the first step, one per prompt; from `rng` if not given.
            observe: called with every batch of images.

        Raises:
            ValueError: if there are no prompts, noise, sources or seeds do not fit them, the search does not fit the
                generator, or the reward is not one score per image.
        """
        self.check(generator)
        _check_shapes(generator, prompts, noise)
        seeds = _seeds_of_prompts(len(prompts), rng, step_seeds)
        streams = [torch.Generator().manual_seed(seed) for seed, _ in seeds]
        if conditioning is None:
            conditioning = generator.encode(list(prompts))
        # Tensors made in inference mode cannot be differentiated through, hence the clones.
        with torch.inference_mode(False):
            if noise is None:
                noises = torch.cat([generator.sample_noise(1, stream) for stream in streams])
            else:
                dtype = torch.promote_types(noise.dtype, torch.float32)
                noises = noise.detach().clone().to(generator.device, dtype)
            problem = SearchProblem(
                generator=generator,
                reward=reward,
                prompts=list(prompts),
                conditioning={name: tensor.clone() for name, tensor in conditioning.items()},
                noises=noises,
                streams=streams,
                step_seeds=[seed for _, seed in seeds],
                steps=self.steps_of(generator),
                progress=progress,
                observe=observe,
            )
            return self.search(problem)

    def kl_nats(self, noise: Tensor, result: SearchResult) -> Tensor:
        """How far the search moved the noise, [B] nats: 1/2 |found - noise|^2, as a hypernetwork's f is measured.

        Args:
            noise: where it started, [B, *noise_shape].
            result: what it found from there.
        """
        return 0.5 * (result.noises.to(noise) - noise).flatten(1).square().sum(1)

    @abstractmethod
    def search(self, problem: SearchProblem) -> SearchResult:
        """Solve a checked problem; gradients may be switched off when it is called."""


def _check_shapes(generator: Generator, prompts: Sequence[str], noise: Tensor | None) -> None:
    """Raises:
    ValueError: if there are no prompts, or the noise does not fit them.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"a search takes a list of one or more prompts, not {prompts!r}")
    shape = (len(prompts), *generator.noise_shape)
    if noise is not None and tuple(noise.shape) != shape:
        raise ValueError(f"the noise for {len(prompts)} prompts must be {list(shape)}, not {list(noise.shape)}")


def _seeds_of_prompts(
    n: int, rng: torch.Generator | Sequence[torch.Generator] | None, step_seeds: Sequence[int] | None
) -> list[list[int]]:
    """Each prompt's two seeds, of its candidates and of its sampling steps, from one source or from its own; those of
    the steps may be given."""
    if not isinstance(rng, Sequence):
        seeds = _draw_seeds(n, rng)
    elif len(rng) != n:
        raise ValueError(f"{n} prompts need as many sources of randomness, not {len(rng)}")
    else:
        seeds = [_draw_seeds(1, source)[0] for source in rng]
    if step_seeds is None:
        return seeds
    if len(step_seeds) != n:
        raise ValueError(f"{n} prompts need as many step_seeds, not {len(step_seeds)}")
    return [[candidates, steps] for (candidates, _), steps in zip(seeds, step_seeds, strict=True)]


def _draw_seeds(n: int, rng: torch.Generator | None) -> list[list[int]]:
    """n pairs of seeds."""
    return torch.randint(2**62, (n, 2), generator=rng, device=None if rng is None else rng.device).tolist()
