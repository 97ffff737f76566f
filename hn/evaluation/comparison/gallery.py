"""Images of a comparison that are kept to be looked at: the same prompts and noise of every method."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hn.evaluation.samples import Samples
from hn.utils.images import save_png

log = logging.getLogger(__name__)


def choose_prompts(categories: Mapping[int, str], count: int) -> set[int]:
    """Numbers of at most `count` prompts: as many of each category as can be, those of one evenly spaced.

    Args:
        categories: of all prompts, by number.
        count: of prompts.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, category in categories.items():
        members[category].append(index)
    quota = dict.fromkeys(members, 0)
    left = min(count, len(categories))
    while left:
        for category in [name for name, own in members.items() if quota[name] < len(own)][:left]:
            quota[category] += 1
            left -= 1
    return {
        own[(2 * k + 1) * len(own) // (2 * quota[category])]
        for category, own in members.items()
        for k in range(quota[category])
    }


class Gallery:
    """Writes the first image of chosen prompts to `<folder>/<method>/<prompt's number>.png`.

    Args:
        folder: made when there is something to keep.
        prompts: numbers of the prompts.
    """

    def __init__(self, folder: Path, prompts: set[int]) -> None:
        self.folder, self.prompts = folder, prompts

    def keep(self, method: str, samples: Samples, images: Tensor) -> None:
        """Write those images [B, 3, H, W] in [0, 1] of a batch that belong here; one that is not finite is left out."""
        for place, (index, copy) in enumerate(zip(samples.index, samples.copy, strict=True)):
            if index not in self.prompts or copy != 0:
                continue
            if not images[place].isfinite().all():
                log.warning("The image of %s for %r is not finite and not kept.", method, samples.prompts[place])
                continue
            folder = self.folder / method
            folder.mkdir(parents=True, exist_ok=True)
            facts = {"prompt": samples.prompts[place], "method": method, "index": index, "seed": samples.seed}
            save_png(images[place], folder / f"{index:05d}.png", facts)
