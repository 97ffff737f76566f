"""Prompts that are longer than a text encoder takes: counted, and said once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import BatchEncoding

log = logging.getLogger(__name__)


class TruncationCounter:
    """Counts the prompts that a text encoder truncates because they have more tokens than it takes; warns once.

    Args:
        tokens: the window, special tokens included.
        encoder: what takes them, in the warning: "a text encoder".
        source: tells it from others, in brackets.

    Attributes:
        cut: number of prompts counted that are cut.
    """

    def __init__(self, tokens: int, encoder: str, source: str):
        self.tokens, self.encoder, self.source = tokens, encoder, source
        self._is_said = False
        self.restart()

    def restart(self) -> None:
        """Begin to count at 0."""
        self.counted = self.cut = self.longest = 0
        self.example = ""

    def count(self, prompts: Sequence[str], lengths: Sequence[int]) -> None:
        """Count B prompts, by their numbers of tokens before they are cut, special ones included."""
        self.counted += len(prompts)
        self.cut += sum(length > self.tokens for length in lengths)
        for prompt, length in zip(prompts, lengths, strict=True):
            if length > self.longest:
                self.longest, self.example = length, prompt

    def warn(self) -> None:
        """Say how many of the prompts counted are cut, the first time that there are some."""
        if self._is_said or not self.cut:
            return
        self._is_said = True
        log.warning(
            "%d of %d prompts are cut to the %d tokens that %s takes (%s); their ends do not count. The longest has "
            "%d: %r (said once, there may be others later)",
            self.cut,
            self.counted,
            self.tokens,
            self.encoder,
            self.source,
            self.longest,
            self.example,
        )


def uncut_lengths(tokens: BatchEncoding) -> list[int]:
    """Numbers of tokens that B prompts had before they were cut, special ones included.

    Args:
        tokens: of a tokenizer of the `tokenizers` library; cut or not, padded or not.
    """
    # What was cut off is kept in pieces, with special tokens and padding of their own.
    return [
        sum(each.attention_mask) + sum(piece.special_tokens_mask.count(0) for piece in each.overflowing)
        for each in tokens.encodings
    ]
