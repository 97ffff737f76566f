"""Images of a batch's noises and their scores, all at once or in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hn.generators.base import Conditioning, Generator
from hn.generators.pipeline_generator import PipelineGenerator
from hn.generators.tokens import without_token_ids
from hn.rewards.ensemble import RewardEnsemble, RewardOutput
from hn.rewards.in_parts import join_scores, score_in_parts
from hn.utils.device import to_device


@dataclass(frozen=True)
class BatchScorer:
    """Generates and scores images of B prompts.

    Attributes:
        generator: makes the images.
        reward: scores them.
        conditioning: of the B prompts.
        prompts: B prompts.
        streams: B sources of the noise that some schedulers draw after the first step; None for the default one.
        size: most images that are decoded and scored at a time (without gradients, also generated); None for all.
    """

    generator: Generator
    reward: RewardEnsemble
    conditioning: Conditioning
    prompts: Sequence[str]
    streams: Sequence[torch.Generator] | None
    size: int | None

    def __call__(self, noise: Tensor, repeats: int = 1) -> RewardOutput:
        """Scores [B * repeats] of noise [B * repeats, *noise_shape], `repeats` in a row of the same prompt.

        Differentiable in the noise and in the generator's weights where gradients are switched on.
        """
        size, places = self.size, torch.arange(len(noise)) // repeats
        if size is None or size >= len(noise):
            return self._score(noise, places)
        if not torch.is_grad_enabled():
            parts = zip(noise.split(size), places.split(size), strict=True)
            return join_scores([self._score(*part) for part in parts])
        generator = self.generator
        assert isinstance(generator, PipelineGenerator)  # score_batch_size is refused for others
        latents = generator.denoise(noise, self._conditioning(places), rng=self._streams(places))
        prompts = [self.prompts[place] for place in places]
        return score_in_parts(latents, prompts, lambda z, p: self.reward(generator.decode(z), p), size)

    def _score(self, noise: Tensor, places: Tensor) -> RewardOutput:
        images = self.generator.generate(noise, self._conditioning(places), rng=self._streams(places))
        return self.reward(images, [self.prompts[place] for place in places])

    def _conditioning(self, places: Tensor) -> Conditioning:
        if len(places) == len(self.prompts) and torch.equal(places, torch.arange(len(places))):
            return self.conditioning
        own = without_token_ids(self.conditioning)  # which the generator does not read
        return {name: value[to_device(places, value.device)] for name, value in own.items()}

    def _streams(self, places: Tensor) -> list[torch.Generator] | None:
        return None if self.streams is None else [self.streams[place] for place in places]
