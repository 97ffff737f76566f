"""Leaving out prompts with unsafe words, which sets written by users of a web page hold."""

import re
from collections.abc import Iterable
from functools import cache

from hn.utils.bundled import bundled

WORDS_FILE = bundled("data/prompts/unsafe_words.txt")
_WORD = re.compile(r"[^\W_]+")  # letters and digits; an underscore separates words, as in "nude_art"


class WordFilter:
    """Finds words in prompts, in whatever letter case.

    Args:
        words: `stem*` for all words that begin so, anything else for the whole word.
    """

    def __init__(self, words: Iterable[str]) -> None:
        words = [word.casefold() for word in words]
        self.stems = tuple(word.removesuffix("*") for word in words if word.endswith("*"))
        self.words = {word for word in words if not word.endswith("*")}

    def matches(self, prompt: str) -> bool:
        """Whether a prompt has one of the words."""
        found = _WORD.findall(prompt.casefold())
        return any(word in self.words or word.startswith(self.stems) for word in found)


def is_unsafe(prompt: str) -> bool:
    """Whether a prompt has a word of data/prompts/unsafe_words.txt, in whatever letter case.

    Raises:
        FileNotFoundError: if the list is missing.
    """
    return _unsafe_words().matches(prompt)


@cache
def _unsafe_words() -> WordFilter:
    lines = WORDS_FILE.read_text(encoding="utf-8").splitlines()
    return WordFilter(line.strip() for line in lines if line.strip() and not line.startswith("#"))
