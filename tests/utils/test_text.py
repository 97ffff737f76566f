import pytest

from hn.utils.text import require_unicode, shortened


def test_a_long_text_is_cut_in_messages():
    assert shortened("a ball") == "'a ball'"
    assert shortened("a\nb") == r"'a\nb'"
    assert shortened("x" * 8_000_000) == f"'{'x' * 80}'... (8000000 characters)"


def test_what_is_no_unicode_is_refused():
    require_unicode("ein Kreis \u2605 \U0001f600", "The prompt")
    for text in ("caf\udce9", "\ud83d"):
        with pytest.raises(ValueError, match="The file name .* is no valid UTF-8"):
            require_unicode(text, "The file name")
