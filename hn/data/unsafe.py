"""A word filter for unsafe prompts, needed for sets that were collected from users of a web page."""

import re
from collections.abc import Iterable
from functools import cache

from hn.utils.bundled import bundled

WORDS_FILE = bundled("data/prompts/unsafe_words.txt")
_WORD = re.compile(r"[^\W_]+")  # letters and digits; an underscore separates words, as in "nude_art"


class WordFilter:
    """Finds words in prompts, ignoring case.

    Args:
        words: `stem*` matches all words with this prefix, anything else the whole word.
    """

    def __init__(self, words: Iterable[str]) -> None:
        words = [word.casefold() for word in words]
        self.stems = tuple(word.removesuffix("*") for word in words if word.endswith("*"))
        self.words = {word for word in words if not word.endswith("*")}

    def matches(self, prompt: str) -> bool:
        """Whether a prompt contains one of the words."""
        found = _WORD.findall(prompt.casefold())
        return any(word in self.words or word.startswith(self.stems) for word in found)


def is_unsafe(prompt: str) -> bool:
    """Whether a prompt contains a word of data/prompts/unsafe_words.txt, ignoring case.

    Raises:
        FileNotFoundError: if the list is missing.
    """
    return _unsafe_words().matches(prompt)


@cache
def _unsafe_words() -> WordFilter:
    lines = WORDS_FILE.read_text(encoding="utf-8").splitlines()
    return WordFilter(line.strip() for line in lines if line.strip() and not line.startswith("#"))
