import ast
import sys
from pathlib import Path

import pytest

from hn.utils.tables import as_text, new_table
from hn.utils.text import printable, require_unicode, say, shortened

HN = Path(__file__).parents[2] / "hn"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\x08\x00\x7f\x9b1m", r"a\rb\x08\x00\x7f\x9b1m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("name\udcff", r"name\udcff"),
        ("é, \U0001f468\u200d\U0001f469, 漢\n\ttext \\x1b", "é, \U0001f468\u200d\U0001f469, 漢\n\ttext \\x1b"),
    ],
)
def test_control_characters_are_shown_and_other_text_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_is_printed_cannot_steer_the_terminal(capsys: pytest.CaptureFixture) -> None:
    say("images", Path("runs/\x1b[2Jx"), 3)
    say("error: \x9b2J", file=sys.stderr)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("images runs/\\x1b[2Jx 3\n", "error: \\x9b2J\n")


def test_tables_show_texts_as_they_are() -> None:
    table = new_table("of \x1b[31m")
    table.add_column("\x1b]8;;http://x\x1b\\name")
    table.add_row("[/bold] :smile: [red]x")
    table.add_row("\x1b[2Jcleared\x9b")
    text = as_text(table)
    assert text.isprintable() or text.replace("\n", "").isprintable()
    assert r"of \x1b[31m" in text and "[/bold] :smile: [red]x" in text and r"\x1b[2Jcleared\x9b" in text


def test_nothing_is_printed_another_way() -> None:
    calls = {
        str(path.relative_to(HN))
        for path in HN.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert calls == {"utils/text.py"}


def test_a_long_text_is_cut_in_messages():
    assert shortened("a ball") == "'a ball'"
    assert shortened("a\nb") == r"'a\nb'"
    assert shortened("x" * 8_000_000) == f"'{'x' * 80}'... (8000000 characters)"


def test_what_is_no_unicode_is_refused():
    require_unicode("ein Kreis \u2605 \U0001f600", "The prompt")
    for text in ("caf\udce9", "\ud83d"):
        with pytest.raises(ValueError, match="The file name .* is no valid UTF-8"):
            require_unicode(text, "The file name")
