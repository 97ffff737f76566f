"""The interface of rewards."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from hn.rewards.preprocess import ClipPreprocess
from hn.utils.dtype import full_precision
from hn.utils.errors import InputError
from hn.utils.hub import Repository, repositories_in


class Reward(nn.Module, ABC):
    """A frozen model that scores an image for a prompt; higher is better. Most are differentiable in the image.

    Subclasses do their own preprocessing in `score` and call `freeze` once their parameters exist.

    Attributes:
        differentiable: whether gradients reach the images; if not, the reward can be reported or used in a search only.
        reads_prompts: whether the score depends on the prompt.
        published_weight: weight in the published objective (arXiv 2508.09968), which an ensemble without `weights`
            uses; None if none was published.
    """

    differentiable: ClassVar[bool] = True
    reads_prompts: ClassVar[bool] = True
    published_weight: float | None = None

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        """The Hub repositories that an instance needs, for a check before anything is loaded.

        Args:
            arguments: of `__init__`, including defaults.
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
        """`forward` without the check of shapes."""

    def check_prompts(self, prompts: Iterable[str]) -> None:
        """Check prompts before expensive work starts; accepts all prompts by default.

        Raises:
            ValueError: if one of them cannot be scored; says what to do.
        """

    def towers(self) -> list[nn.Module]:
        """The networks whose linear layers can be quantised; none by default. Heads are not among them: they are
        evaluated in full precision."""
        return []

    def image_layers(self) -> list[nn.Module]:
        """The repeated layers of the image tower, which an ensemble can compile; none by default."""
        return []

    def freeze(self) -> Self:
        """Disable gradients of all parameters and set eval mode."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode for any `mode`."""
        return super().train(False)


class PreprocessedReward(Reward):
    """A reward whose only access to images is a `ClipPreprocess`.

    An ensemble preprocesses a batch once for all members with the same preprocessing, and passes them the pixels.

    Attributes:
        preprocess: applied before `score_pixels`; set by subclasses.
    """

    preprocess: ClipPreprocess

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score_pixels(self.preprocess(full_precision(images)), prompts)

    @abstractmethod
    def score_pixels(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [B] of preprocessed images [B, 3, size, size], in float32 or float64, for B prompts."""


def check_batch(images: Tensor, prompts: Sequence[str]) -> None:
    """Check the shapes of a batch: images [B, 3, H, W] and B prompts.

    Raises:
        ValueError: if they do not match.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"A reward takes images [B, 3, H, W] in [0, 1], not {list(images.shape)}.")
    if isinstance(prompts, str) or len(prompts) != len(images):
        given = repr(prompts) if isinstance(prompts, str) else len(prompts)
        raise ValueError(f"A reward takes one prompt per image: {len(images)} images, prompts {given}.")


def check_scores(
    scores: Any, reward: Reward, batch_size: int, needs_gradient: bool = False, name: str | None = None
) -> Tensor:
    """Check what a reward returned for a batch.

    Args:
        scores: it.
        reward: what returned it.
        batch_size: B, the number of images.
        needs_gradient: whether it has to be differentiable in the images.
        name: of the reward in its ensemble, for the error.

    Returns:
        The scores [B].

    Raises:
        InputError: if it is no floating-point tensor [B], or has no gradient where one is needed; names the reward.
    """
    who = f"The reward {'' if name is None else f'{name} '}({type(reward).__module__}.{type(reward).__qualname__})"
    if not isinstance(scores, Tensor) or scores.shape != (batch_size,) or not scores.is_floating_point():
        found = type(scores).__name__
        if isinstance(scores, Tensor):
            found = f"a tensor {list(scores.shape)} of {str(scores.dtype).removeprefix('torch.')}"
        raise InputError(
            f"{who} returned {found} for {batch_size} images; its `score` has to return a floating-point tensor "
            f"[{batch_size}], one score for each image."
        )
    if needs_gradient and not scores.requires_grad:
        raise InputError(
            f"{who} returned scores without a gradient with respect to the images, so nothing can be trained on it: "
            "look for torch.no_grad, .detach(), .item(), numpy or PIL in its `score`. To only report it, give it the "
            "weight 0 or hold it out, and set `differentiable = False` in the class if it has no gradient."
        )
    return scores
