"""Rewards as torchmetrics metrics: scores gathered over batches and processes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from hn.rewards.base import Reward, check_batch
from hn.rewards.clip import ClipReward
from hn.utils.dtype import full_precision

_KEY_BITS = 53  # integers of so many bits are exact in float64


class RewardMetric(Metric):
    """Mean, standard deviation and per-prompt means of a reward's scores, over any number of updates and processes.

    `compute` returns a dict: `mean`, `std` (divided by count - 1; NaN for a single image) and `count`, scalar tensors
    in float64 and int64; and `per_prompt`, the mean score of every distinct prompt by its key, in the order of first
    appearance (after a synchronisation process by process). Without any image, mean and std are NaN.

    A prompt's key is an integer, since processes exchange tensors and no strings: the `index` given to `update`, such
    as the prompt's number in its set, or else `prompt_key(prompt)`.

    Every score is kept, in float64 (16 bytes an image, with the key), and summed in sorted order: the numbers do not
    depend, to the last bit, on how scores were spread over updates and processes. A `DistributedSampler` repeats images
    to give all processes equally many; those count twice.

    The reward's weights are neither in the metric's `state_dict` nor copied with it: a `clone`, and that of a
    MetricCollection, shares them. Moving the metric to a device moves the reward; the data types of both stay.

    Args:
        reward: what scores the images.
        per_prompt: whether results have `per_prompt`; without, they are scalars that Lightning's `log_dict` takes.
        kwargs: options of `torchmetrics.Metric`, like `dist_sync_on_step`.

    Raises:
        ValueError: if torchmetrics does not know an option.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, reward: Reward, per_prompt: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._shared = _Shared(reward)
        self.per_prompt = per_prompt
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("keys", [], dist_reduce_fx="cat")
        # A MetricCollection updates only one of the metrics whose states are equal after the first batch, as different
        # rewards' may be by chance. NaN equals nothing.
        self.add_state("unequal", torch.tensor(float("nan"), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def reward(self) -> Reward:
        """What scores the images."""
        return self._shared.reward

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the states, keys included: torchmetrics gives it to a process that saw no image."""
        return torch.float64

    def update(self, images: Tensor, prompts: Sequence[str], index: Tensor | Sequence[int] | None = None) -> None:
        """Score one batch.

        Args:
            images: [B, 3, H, W], floating-point in [0, 1] or uint8 in 0 to 255.
            prompts: B prompts.
            index: B integers that stand for the prompts in `per_prompt`.

        Raises:
            ValueError: if the shapes do not fit, images are of another type or range, or there is not one index of 0 or
                more for each prompt.
        """
        check_batch(images, prompts)
        keys = torch.tensor([prompt_key(prompt) for prompt in prompts]) if index is None else torch.as_tensor(index)
        if keys.shape != (len(images),) or keys.is_floating_point() or (len(keys) and keys.min() < 0):
            raise ValueError(f"index takes an integer of 0 or more for each of the {len(images)} prompts, not {index}.")
        with torch.no_grad():  # `forward` switches gradients on, whatever `is_differentiable` says
            scores = self.score(unit_range(images), prompts)
        self.scores.append(scores.detach().to(torch.float64))
        self.keys.append(keys.to(scores.device, torch.float64))

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [B] of images [B, 3, H, W] in [0, 1] for B prompts."""
        return self.reward(images, prompts)

    def compute(self) -> dict[str, Any]:
        """See the class."""
        scores, keys = (_joined(state).numpy() for state in (self.scores, self.keys))
        ordered, count = np.sort(scores), len(scores)
        mean = ordered.mean() if count else np.nan
        std = ordered.std(ddof=1) if count > 1 else np.nan
        result: dict[str, Any] = {
            "mean": torch.tensor(mean, dtype=torch.float64, device=self.device),
            "std": torch.tensor(std, dtype=torch.float64, device=self.device),
            "count": torch.tensor(count, device=self.device),
        }
        return result | {"per_prompt": _means_by_key(scores, keys)} if self.per_prompt else result

    def _apply(self, fn: Any, exclude_state: Sequence[str] = "") -> RewardMetric:  # what .to() and .half() go through
        device = fn(torch.zeros(1, device=self.device)).device
        self.reward.to(device)
        return super()._apply(lambda tensor: tensor.to(device), exclude_state)


class ClipScore(RewardMetric):
    """CLIPScore (arXiv 2104.08718) on the scale of torchmetrics: 100 * max(cos, 0) of image and prompt features.

    torchmetrics' own class does not work with transformers 5. This one clamps image by image, as the paper and the
    formula in torchmetrics' documentation do; its code clamps the mean, which differs where a cosine is negative.
    Images are preprocessed as `ClipReward` says.

    Args:
        pretrained: Hub id or local folder of a CLIPModel; by default torchmetrics'.
        revision: branch, tag or commit on the Hub.
        tokenizer: Hub id or folder of the tokenizer, where the model comes without one.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        per_prompt: as for `RewardMetric`.
        kwargs: options of `torchmetrics.Metric`.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is unknown or the weights are not those of a CLIPModel.
    """

    def __init__(
        self,
        pretrained: str = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        per_prompt: bool = True,
        **kwargs: Any,
    ) -> None:
        reward = ClipReward(pretrained, revision, tokenizer, dtype, scale="cosine")
        super().__init__(reward, per_prompt, **kwargs)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100 * self.reward(images, prompts).clamp(min=0)


class _Shared:
    """Keeps a reward out of a metric's submodules, and its weights from being copied with the metric."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def prompt_key(prompt: str) -> int:
    """An integer for a prompt, the same in every process and on every machine: 53 bits of its BLAKE2b digest.

    Two of a million prompts share one with a probability of 6e-5.
    """
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _KEY_BITS)


def unit_range(images: Tensor) -> Tensor:
    """Floating-point images in [0, 1] as they are, uint8 ones divided by 255.

    Raises:
        ValueError: if the data type is another one, or values are out of range.
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"Images are floating-point in [0, 1], or uint8 in 0 to 255, not {images.dtype}.")
    if images.numel():
        low, high = (bound.item() for bound in full_precision(images).aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"Floating-point images are in [0, 1], but these reach from {low:g} to {high:g}; "
                "clamp them, bring them to that range, or give uint8."
            )
    return images


def _joined(state: Tensor | list[Tensor]) -> Tensor:
    """A list state as one tensor on the CPU; after a synchronisation it is one tensor."""
    return (
        state.cpu()
        if isinstance(state, Tensor)
        else torch.cat([torch.empty(0, dtype=torch.float64), *(part.cpu() for part in state)])
    )


def _means_by_key(scores: np.ndarray, keys: np.ndarray) -> dict[int, float]:
    distinct, first = np.unique(keys, return_index=True)
    order = np.argsort(scores, kind="stable")
    place = np.searchsorted(distinct, keys[order])
    means = np.bincount(place, scores[order], minlength=len(distinct)) / np.bincount(place, minlength=len(distinct))
    return {int(distinct[i]): float(means[i]) for i in np.argsort(first)}
