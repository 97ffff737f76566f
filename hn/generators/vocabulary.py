"""Words that a tokenizer with a closed vocabulary does not know."""

import difflib
import re

from transformers import PreTrainedTokenizerBase

# Letters together, digits and punctuation one by one, as CLIP's tokenizer splits text before byte-pair encoding.
_WORD = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")
_END_OF_WORD = "</w>"


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[str]:
    """The words of `prompt` that are not one token of the vocabulary each, in order of appearance.

    Meant for word-level vocabularies. A full byte-pair vocabulary rightly splits rare words into pieces.
    """

    def is_known(word: str) -> bool:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        return len(ids) == 1 and ids[0] != tokenizer.unk_token_id

    return [word for word in dict.fromkeys(_WORD.findall(prompt)) if not is_known(word)]


def nearest_words(tokenizer: PreTrainedTokenizerBase, word: str, n: int = 3) -> list[str]:
    """Up to `n` words of the vocabulary spelled most like `word`, the nearest first.

    Ends of longer words are left out: byte-pair encoding has "ure" on its way to "picture".
    """
    ends = sorted(token.removesuffix(_END_OF_WORD) for token in tokenizer.get_vocab() if token.endswith(_END_OF_WORD))
    words = [end for end in ends if not any(other != end and other.endswith(end) for other in ends)]
    return difflib.get_close_matches(word.lower(), words, n=n, cutoff=0.5)


def require_known_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
    """Raises:
    ValueError: if `prompt` has words outside the vocabulary; names them and the nearest words that are in it.
    """
    unknown = unknown_words(tokenizer, prompt)
    if not unknown:
        return
    described = []
    for word in unknown:
        nearest = nearest_words(tokenizer, word)
        described.append(f"{word!r}" + (f" (did you mean {' or '.join(map(repr, nearest))}?)" if nearest else ""))
    raise ValueError(
        f"The prompt {prompt!r} has words outside the generator's vocabulary: {', '.join(described)}. "
        "Rephrase it, or set strict_vocabulary to False to have such words encoded as the tokenizer does."
    )
