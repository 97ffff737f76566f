"""How colourful an image is."""

from collections.abc import Sequence

from torch import Tensor

from hn.rewards.base import Reward

_EPSILON = 1 / 255


class SaturationReward(Reward):
    """Mean over the pixels of the saturation (max - min) / (max + 1/255) of R, G and B; in [0, 1), whatever the prompt.

    This is the saturation of the HSV model, but for 1/255 below the line: the smallest step of an 8-bit image, without
    which black pixels would have no saturation and dark ones gradients without bound.
    """

    reads_prompts = False

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        largest, smallest = images.amax(dim=1), images.amin(dim=1)
        return ((largest - smallest) / (largest + _EPSILON)).flatten(1).mean(dim=1)
