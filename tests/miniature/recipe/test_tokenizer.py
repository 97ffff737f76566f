import json
from pathlib import Path

import pytest

from hn.generators.prompt_encoder import unknown_words
from hn.miniature.captions import PARAPHRASES, PHRASES, captions_of, vocabulary_corpus
from hn.miniature.recipe.tokenizer import WINDOW, build_tokenizer, fingerprint, save_tokenizer
from hn.miniature.world import COLOR_NAMES, NUMBERS, PLURALS, RELATIONS, SHAPES, TAGS

PROMPTS = Path(__file__).parents[3] / "data" / "prompts" / "miniature"


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_process_builds_the_same_vocabulary(tokenizer) -> None:
    # Trained networks know words by these numbers: a change here asks for all checkpoints to be trained again.
    assert fingerprint(tokenizer) == fingerprint(build_tokenizer()) == "021a75c355dd020b"
    assert tokenizer("a photo of a red circle").input_ids == [165, 0, 107, 35, 0, 135, 70, 166]


def test_every_word_is_one_token(tokenizer) -> None:
    words = {word for text in vocabulary_corpus() for word in text.split()}
    assert words >= {*SHAPES, *PLURALS.values(), *COLOR_NAMES, *NUMBERS.values()}
    assert words >= {word for relation in RELATIONS for word in relation.split()}
    ids = {word: tuple(tokenizer(word, add_special_tokens=False).input_ids) for word in words}
    assert {len(tokens) for tokens in ids.values()} == {1}
    assert len(set(ids.values())) == len(words)


def test_prompt_files_have_no_unknown_word(tokenizer) -> None:
    for path in PROMPTS.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            assert unknown_words(tokenizer, json.loads(line)["prompt"]) == []
    assert unknown_words(tokenizer, "a photo of a dog") == ["dog"]


def test_longest_caption_fits_the_window(tokenizer) -> None:
    longest = max(
        (
            caption.text(opening, phrase)
            for tag in TAGS[:-1]
            for caption in captions_of(tag)
            for opening in PARAPHRASES
            for phrase in (None, *PHRASES.values())
        ),
        key=lambda text: len(text.split()),
    )
    attributes = "a picture of an orange triangle and an orange diamond"
    assert max(len(tokenizer(text).input_ids) for text in (longest, attributes)) <= WINDOW
    assert len(tokenizer(longest).input_ids) == len(longest.split()) + 2


def test_padding_is_end_of_text_and_fills_the_window(tokenizer) -> None:
    ids = tokenizer("a ring", padding="max_length").input_ids
    assert len(ids) == WINDOW == tokenizer.model_max_length
    assert ids[0] == tokenizer.bos_token_id
    assert ids[3:] == [tokenizer.eos_token_id] * (WINDOW - 3) and tokenizer.pad_token_id == tokenizer.eos_token_id


def test_tokens_fit_a_byte_and_special_ones_come_last(tokenizer) -> None:
    # Pairs are stored as uint8; CLIP finds the end of a text by the end-of-text token.
    assert len(tokenizer) <= 256
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1)


def test_its_files_do_not_tell_whether_it_was_used(tmp_path: Path) -> None:
    tokenizer, files = build_tokenizer(), []
    for folder in (tmp_path / "new", tmp_path / "used"):
        save_tokenizer(tokenizer, folder)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
        tokenizer(["a ring"], padding="max_length", truncation=True)
    assert files[0] == files[1]
    assert json.loads(files[0]["tokenizer.json"])["padding"] is None
    assert tokenizer(["a ring"], padding="max_length") == build_tokenizer()(["a ring"], padding="max_length")


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = type(tokenizer).from_pretrained(tmp_path)
    texts = ["a photo of two crosses", "Three red hearts, above a ring"]
    assert loaded(texts, padding="max_length").input_ids == tokenizer(texts, padding="max_length").input_ids
    assert fingerprint(loaded) == fingerprint(tokenizer)
