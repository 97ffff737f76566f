"""The redness of an image: the toy reward of the published study (arXiv 2508.09968)."""

from collections.abc import Sequence

from torch import Tensor

from hn.rewards.base import Reward


class RednessReward(Reward):
    """Mean over the pixels of R - (G + B) / 2; in [-1, 1]. It ignores the prompt."""

    reads_prompts = False
    published_weight = 1.0  # alone

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        red, green, blue = images.unbind(dim=1)
        return (red - (green + blue) / 2).flatten(1).mean(dim=1)
