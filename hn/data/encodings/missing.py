"""Which prompts are not in files yet, known without holding any of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import compress, islice

import numpy as np

from hn.data.encodings.files import PromptFiles, prompt_key


class MissingPrompts(Iterable[str]):
    """Those of some prompts that files lack, each once, in the order of their first appearance.

    The prompts are gone through again whenever they are asked for, so that there may be more of them than fit into
    memory: kept are 5 bytes for each one, and about 80 while repeated ones are looked for.

    Args:
        files: where they may be.
        prompts: one or more, repeated or not; the same each time they are gone through.

    Attributes:
        distinct: number of different prompts, missing or not.

    Raises:
        ValueError: if one of the files is damaged.
    """

    def __init__(self, files: PromptFiles, prompts: Iterable[str]):
        self._prompts = prompts
        keys, lengths, absent = bytearray(), array("i"), bytearray()
        for prompt in prompts:
            key = prompt_key(prompt)
            keys += bytes.fromhex(key)
            lengths.append(len(prompt))
            absent.append(not files.has(key))
        _, first = np.unique(np.frombuffer(keys, dtype="S16"), return_index=True)
        self.distinct = len(first)
        self._chosen = np.zeros(len(absent), dtype=bool)
        self._chosen[first] = np.frombuffer(absent, dtype=bool)[first]
        self._lengths = np.frombuffer(lengths, dtype=np.int32)

    def __len__(self) -> int:
        return int(self._chosen.sum())

    def __iter__(self) -> Iterator[str]:
        return compress(self._prompts, self._chosen)

    def of_median_length(self) -> str:
        """The one in the middle, if they are sorted by their number of characters; there has to be one."""
        order = np.argsort(self._lengths[self._chosen], kind="stable")
        return next(islice(self, int(order[len(order) // 2]), None))
