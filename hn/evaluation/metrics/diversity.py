"""How different the images of one prompt are, as a function of their features."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pairwise_cosine_distance(features: Tensor, index: Tensor) -> float | None:
    """Mean of 1 - cos over all pairs of images of a prompt, averaged over the prompts; in float64.

    The images differ in noise alone, so this is the diversity over seeds: 0 if all are the same. One minus it is the
    mean pairwise similarity of arXiv 2508.09968, with DINOv2's features.

    Args:
        features: of all images, [N, D].
        index: the number of each image's prompt, [N].

    Returns:
        None if no prompt has two images; prompts with one are left out.
    """
    unit = normalize(features.detach().to(torch.float64), dim=1)
    _, prompt = index.unique(return_inverse=True)
    count = prompt.bincount()
    sums = unit.new_zeros(len(count), unit.shape[1]).index_add(0, prompt, unit)
    own = unit.new_zeros(len(count)).index_add(0, prompt, unit.square().sum(dim=1))
    several = count > 1
    if not several.any():
        return None
    # |sum u|^2 holds every pair twice, and every image with itself
    similarity = (sums.square().sum(dim=1) - own)[several] / (count * (count - 1))[several]
    return float(1 - similarity.mean())
