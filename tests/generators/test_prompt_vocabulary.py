import pytest
from transformers import CLIPTokenizer

from hn.generators.prompt_encoder import nearest_words, require_known_words, unknown_words


def test_known_words_pass_in_any_case_and_with_punctuation(tiny_tokenizer: CLIPTokenizer) -> None:
    assert unknown_words(tiny_tokenizer, "A photo of two red cubes".replace("cubes", "cube") + ", the BLUE ball.") == []


def test_unknown_words_are_found_once_each_in_order(tiny_tokenizer: CLIPTokenizer) -> None:
    # "xyz" has letters the tokenizer does not know at all; "bed" is spelled from letters it knows.
    assert unknown_words(tiny_tokenizer, "a xyz and a bed, a xyz; 2") == ["xyz", "bed", ";", "2"]


def test_nearest_words_come_nearest_first(tiny_tokenizer: CLIPTokenizer) -> None:
    assert nearest_words(tiny_tokenizer, "Bluee")[0] == "blue"
    assert nearest_words(tiny_tokenizer, "xylophone") == []


def test_the_error_names_words_and_suggestions(tiny_tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(ValueError, match=r"'greeen' \(did you mean 'green'") as caught:
        require_known_words(tiny_tokenizer, "a greeen cube and a xylophone")
    assert "'xylophone'. Rephrase it" in str(caught.value)
