"""Images of a comparison that are kept to be looked at: the same prompts and noise of every method."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from hn.data.prompts import PromptBatch
from hn.evaluation.samples import Samples
from hn.report.images import save_png

log = logging.getLogger(__name__)


def choose_prompts(batches: Iterable[PromptBatch], count: int) -> set[int]:
    """Numbers of at most `count` prompts: as many of each tag as can be, those of one tag evenly spaced."""
    by_tag: dict[str, list[int]] = defaultdict(list)
    for batch in batches:
        for index, row in zip(batch["index"].tolist(), batch["metadata"], strict=True):
            by_tag[row.get("tag", "all")].append(index)
    quota = dict.fromkeys(by_tag, 0)
    left = min(count, sum(map(len, by_tag.values())))
    while left:
        for tag in [tag for tag, members in by_tag.items() if quota[tag] < len(members)][:left]:
            quota[tag] += 1
            left -= 1
    return {
        members[(2 * k + 1) * len(members) // (2 * quota[tag])]
        for tag, members in by_tag.items()
        for k in range(quota[tag])
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
