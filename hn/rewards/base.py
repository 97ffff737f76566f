"""What every reward offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from hn.rewards.preprocess import ClipPreprocess
from hn.utils.dtype import full_precision
from hn.utils.hub import Repository, repositories_in


class Reward(nn.Module, ABC):
    """A frozen score of (image, prompt), higher is better, as a rule differentiable in the image.

    Subclasses do their own preprocessing in `score` and call `freeze` once their parameters exist.

    Attributes:
        differentiable: whether gradients reach the images; a reward without them is only reported, or searched with.
        reads_prompts: whether the score depends on the prompt.
        published_weight: what the score is multiplied with in the published objective (arXiv 2508.09968), and in an
            ensemble that is given no weights; None where nothing was published.
    """

    differentiable: ClassVar[bool] = True
    reads_prompts: ClassVar[bool] = True
    published_weight: float | None = None

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        """What an instance takes from the Hugging Face Hub, to be looked for before anything is loaded.

        Args:
            arguments: those of `__init__`, defaults included.
        """
        return repositories_in(arguments)

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [B] of images [B, 3, H, W] in [0, 1] for B prompts.

        Raises:
            ValueError: if the shapes do not fit.
        """
        check_batch(images, prompts)
        return self.score(images, prompts)

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """`forward` after its checks."""

    def check_prompts(self, prompts: Iterable[str]) -> None:
        """Look at prompts before any work is done with them; every prompt is fine unless a reward says otherwise.

        Raises:
            ValueError: if one of them cannot be scored; says what to do.
        """

    def towers(self) -> list[nn.Module]:
        """The networks whose linear layers may have quantised weights; none by default, and never a head, which is
        computed in full precision."""
        return []

    def image_layers(self) -> list[nn.Module]:
        """The repeated layers that every image goes through, which an ensemble compiles; none by default."""
        return []

    def freeze(self) -> Self:
        """Switch gradients off for every parameter and set eval mode."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Keeps eval mode, whatever `mode` says."""
        return super().train(False)


class PreprocessedReward(Reward):
    """A reward that sees images through a `ClipPreprocess` only.

    An ensemble preprocesses a batch once for all its members that do it alike, and hands them the pixels.

    Attributes:
        preprocess: what comes before `score_pixels`; set by subclasses.
    """

    preprocess: ClipPreprocess

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score_pixels(self.preprocess(full_precision(images)), prompts)

    @abstractmethod
    def score_pixels(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [B] of what `preprocess` made of images in float32 at least: [B, 3, size, size], for B prompts."""


def check_batch(images: Tensor, prompts: Sequence[str]) -> None:
    """Check that there are images [B, 3, H, W] and B prompts.

    Raises:
        ValueError: if not.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"A reward takes images [B, 3, H, W] in [0, 1], not {list(images.shape)}.")
    if isinstance(prompts, str) or len(prompts) != len(images):
        given = repr(prompts) if isinstance(prompts, str) else len(prompts)
        raise ValueError(f"A reward takes one prompt per image: {len(images)} images, prompts {given}.")
