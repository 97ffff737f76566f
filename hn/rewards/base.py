"""What every reward offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn


class Reward(nn.Module, ABC):
    """A frozen score of (image, prompt), higher is better, differentiable in the image.

    Subclasses do their own preprocessing in `score` and call `freeze` once their parameters exist.
    """

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [B] of images [B, 3, H, W] in [0, 1] for B prompts.

        Raises:
            ValueError: if the shapes do not fit.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"A reward takes images [B, 3, H, W] in [0, 1], not {list(images.shape)}.")
        if isinstance(prompts, str) or len(prompts) != len(images):
            given = repr(prompts) if isinstance(prompts, str) else len(prompts)
            raise ValueError(f"A reward takes one prompt per image: {len(images)} images, prompts {given}.")
        return self.score(images, prompts)

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """`forward` after its checks."""

    def freeze(self) -> Self:
        """Switch gradients off for every parameter and set eval mode."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Keeps eval mode, whatever `mode` says."""
        return super().train(False)
