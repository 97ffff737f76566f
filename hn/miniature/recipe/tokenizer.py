"""A CLIPTokenizer over the world's vocabulary: byte pair encoding trained until every word is one token."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from hn.miniature.captions import vocabulary_corpus

WINDOW = 16
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_WORD_END = "</w>"


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer, with a window of 16 tokens and end-of-text as padding, as CLIP's own; the same one every time."""
    corpus = vocabulary_corpus()
    trained = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    # Named up front: the trainer numbers the last letters of words in the order of a randomly seeded hash table, and
    # ties between merges are broken by number, so that otherwise each process would get another vocabulary.
    word_ends = sorted({word[-1] + _WORD_END for text in corpus for word in text.split()})
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, end_of_word_suffix=_WORD_END, special_tokens=word_ends, show_progress=False
    )
    trained.train_from_iterator(corpus, trainer)
    vocabulary = trained.get_vocab()
    order = sorted(vocabulary, key=vocabulary.get)
    ids = {token: index for index, token in enumerate([*order, *_SPECIAL])}
    merges = json.loads(trained.to_str())["model"]["merges"]
    return CLIPTokenizer(vocab=ids, merges=[tuple(pair) for pair in merges], model_max_length=WINDOW)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: str | Path) -> None:
    """Save it as it was built: calling a tokenizer leaves padding and truncation behind, which it would save too."""
    unused = copy.deepcopy(tokenizer)
    unused.backend_tokenizer.no_padding()
    unused.backend_tokenizer.no_truncation()
    unused.save_pretrained(folder)


def fingerprint(tokenizer: CLIPTokenizer) -> str:
    """What tells one vocabulary from another: a digest of all tokens and their numbers."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]
