import pytest

from hn.data.unsafe import WORDS_FILE, WordFilter, is_unsafe


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Nude", True),
        ("a painting, NUDES", True),
        ("nude_art", True),
        ("nudibranch on a reef", False),
        ("denuded hills", False),
        ("a class of art", False),
        ("ass", True),
        ("the ass2", False),
        ("", False),
    ],
)
def test_words_and_stems(prompt, found):
    assert WordFilter(["nude*", "ass"]).matches(prompt) is found


def test_the_list_is_of_single_words_in_order():
    words = [line for line in WORDS_FILE.read_text().splitlines() if not line.startswith("#")]
    assert words == sorted(set(words))
    assert len(words) > 50
    assert all(word.removesuffix("*").isalnum() and word == word.lower() for word in words)


def test_ordinary_prompts_pass():
    for prompt in (
        "a photo of a bench",
        "a rapeseed field",
        "a lustrous pearl",
        "a nudibranch",
        "a Futaba van",
        "Essex",
    ):
        assert not is_unsafe(prompt)
    assert is_unsafe("a Sexy cat")
