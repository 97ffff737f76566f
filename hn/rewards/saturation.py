"""The colour saturation of an image."""

from collections.abc import Sequence

from torch import Tensor

from hn.rewards.base import Reward

_EPSILON = 1 / 255


class SaturationReward(Reward):
    """Mean over the pixels of the saturation (max - min) / (max + 1/255) of R, G and B; in [0, 1), for any prompt.

    This is the saturation of the HSV model, with 1/255 (one level of an 8-bit image) added to the denominator: without
    it, the saturation of black pixels would be undefined and the gradient of dark pixels unbounded.
    """

    reads_prompts = False

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        largest, smallest = images.amax(dim=1), images.amin(dim=1)
        return ((largest - smallest) / (largest + _EPSILON)).flatten(1).mean(dim=1)
