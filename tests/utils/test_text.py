from hn.utils.text import shortened


def test_a_long_text_is_cut_in_messages():
    assert shortened("a ball") == "'a ball'"
    assert shortened("a\nb") == r"'a\nb'"
    assert shortened("x" * 8_000_000) == f"'{'x' * 80}'... (8000000 characters)"
