"""The brightness of an image."""

from collections.abc import Sequence

from torch import Tensor

from hn.rewards.base import Reward


class BrightnessReward(Reward):
    """Mean over the pixels of the luma 0.2126 R + 0.7152 G + 0.0722 B (ITU-R BT.709, on the encoded values); in
    [0, 1]. It ignores the prompt."""

    reads_prompts = False

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        red, green, blue = images.unbind(dim=1)
        return (0.2126 * red + 0.7152 * green + 0.0722 * blue).flatten(1).mean(dim=1)
