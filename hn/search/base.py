"""What every test-time search takes and gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from hn.generators.base import Conditioning, Generator

RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
"""(images [B, 3, H, W] in [0, 1], B prompts) -> scores [B], higher is better."""


class TracePoint(TypedDict):
    """The state of a search after a certain budget.

    `nfe` (function evaluations of the backbone, forward ones only) and `reward_calls` are per prompt; `seconds` is the
    time that all prompts together took up to here, once they were encoded.
    """

    nfe: int
    reward_calls: int
    seconds: float
    best_reward: Tensor  # [B] float32 on the CPU


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best image found for each of B prompts.

    Attributes:
        images: [B, 3, H, W] in [0, 1], on the generator's device.
        noises: [B, *noise_shape], the noises of these images.
        rewards: [B] float32 on the CPU, the rewards of these images.
        trace: reward against budget, in order of budget; the last point holds `rewards`.
    """

    images: Tensor
    noises: Tensor
    rewards: Tensor
    trace: list[TracePoint]


@dataclass(frozen=True, slots=True)
class SearchProblem:
    """What is searched: B prompts with their starting noises and sources of randomness.

    Every prompt has seeds of its own, so that its result does not depend on the prompts it is batched with.
    """

    generator: Generator
    reward: RewardFunction
    prompts: list[str]
    conditioning: Conditioning
    noises: Tensor
    streams: list[torch.Generator]
    step_seeds: list[int]
    steps: int

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
                "of a RewardEnsemble pass the method `total`"
            )
        return images, scores.float()


class Search(ABC):
    """Looks for a better noise for each prompt, within a budget.

    Args:
        steps: sampling steps for each image; the generator's own number if not given.
        batch_size: most images that are generated and scored at once; bounds memory and does not change the result.

    Raises:
        ValueError: if an argument is below 1.
    """

    is_local: ClassVar[bool] = True
    """Whether it moves on from the noise it is given, rather than drawing candidates of its own."""

    def __init__(self, steps: int | None = None, batch_size: int = 16):
        if (steps is not None and steps < 1) or batch_size < 1:
            raise ValueError(f"steps ({steps}) and batch_size ({batch_size}) must be at least 1")
        self.steps = steps
        self.batch_size = batch_size

    @property
    def evaluations(self) -> int | None:
        """Images that it makes for each prompt, at most; None if that is not known beforehand."""
        return None

    def __call__(
        self,
        generator: Generator,
        reward: RewardFunction,
        prompts: Sequence[str],
        noise: Tensor | None = None,
        rng: torch.Generator | Sequence[torch.Generator] | None = None,
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

        Raises:
            ValueError: if there are no prompts, noise or sources do not fit them, or the reward is not one score per
                image.
        """
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"a search takes a list of one or more prompts, not {prompts!r}")
        shape = (len(prompts), *generator.noise_shape)
        if noise is not None and tuple(noise.shape) != shape:
            raise ValueError(f"the noise for {len(prompts)} prompts must be {list(shape)}, not {list(noise.shape)}")
        if isinstance(rng, Sequence):
            if len(rng) != len(prompts):
                raise ValueError(f"{len(prompts)} prompts need as many sources of randomness, not {len(rng)}")
            seeds = [_draw_seeds(1, source)[0] for source in rng]
        else:
            seeds = _draw_seeds(len(prompts), rng)
        streams = [torch.Generator().manual_seed(seed) for seed, _ in seeds]
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
                conditioning={name: tensor.clone() for name, tensor in generator.encode(list(prompts)).items()},
                noises=noises,
                streams=streams,
                step_seeds=[seed for _, seed in seeds],
                steps=generator.steps if self.steps is None else self.steps,
            )
            return self.search(problem)

    def kl_nats(self, noise: Tensor, found: Tensor) -> Tensor:
        """What the search spent in noise space, [B] nats: 1/2 |found - noise|^2, as a hypernetwork's f is measured."""
        return 0.5 * (found - noise).flatten(1).square().sum(1)

    @abstractmethod
    def search(self, problem: SearchProblem) -> SearchResult:
        """Solve a checked problem; gradients may be switched off when it is called."""


def _draw_seeds(n: int, rng: torch.Generator | None) -> list[list[int]]:
    """n pairs of seeds."""
    return torch.randint(2**62, (n, 2), generator=rng, device=None if rng is None else rng.device).tolist()
