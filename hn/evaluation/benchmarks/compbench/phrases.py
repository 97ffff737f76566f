"""The noun phrases of a prompt, about each of which BLIP-VQA is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

KEY = "noun_phrases"
"""Entry of a row with its noun phrases, a list of strings; where it is there, spaCy is not needed."""

LEFT_OUT = ("top", "the side", "the left", "the right")
"""Phrases of spatial relations, which are no objects: the official tool leaves these out."""

SPACY_MODEL = "en_core_web_sm"  # the official tool's
_INSTALL = 'pip install "hn[compbench]"'

Parser = Callable[[str], Any]
"""Text -> a spaCy document, or anything with `noun_chunks` that have `text`."""


def row_phrases(row: Mapping[str, Any], parse: Parser | None) -> list[str]:
    """The noun phrases of a row: its own under `noun_phrases`, else those that `parse` finds in its prompt.

    Args:
        row: of a prompt.
        parse: from `load_parser`; None if every row has its own phrases.

    Raises:
        ValueError: if the row's own are no strings, or none is found.
    """
    if KEY in row:
        phrases = row[KEY]
        if not isinstance(phrases, list) or not phrases or not all(isinstance(p, str) and p.strip() for p in phrases):
            raise ValueError(f"{row['prompt']!r}: {KEY} must be a list of phrases like ['a red car'], not {phrases!r}.")
        return phrases
    phrases = [chunk.text for chunk in parse(row["prompt"]).noun_chunks if chunk.text not in LEFT_OUT]
    if not phrases:
        raise ValueError(f"spaCy finds no noun phrase in {row['prompt']!r}: give them in the prompt's row as {KEY}.")
    return phrases


def load_parser(rows: Iterable[Mapping[str, Any]], model: str) -> Parser | None:
    """spaCy's pipeline `model` (a package, or a folder), if there is a row without phrases of its own.

    Raises:
        ImportError: if spaCy or the pipeline is missing; says how to get it.
    """
    if all(KEY in row for row in rows):
        return None
    how = f"or give each prompt's row its phrases as {KEY}, a list."
    if find_spec("spacy") is None:
        raise ImportError(
            f"The noun phrases of prompts are found by spaCy, which is not installed: {_INSTALL} and "
            f"python -m spacy download {model}, {how}"
        )
    import spacy

    try:
        return spacy.load(model)
    except OSError as error:
        raise ImportError(
            f"spaCy has no pipeline {model!r}: python -m spacy download {model}, {how}\nWhat spaCy says: {error}"
        ) from None
