"""`hn report` on the command line."""

import pytest

from hn.cli import main


@pytest.mark.slow
def test_the_page_is_drawn_again_without_measuring(comparison_folder, capsys):
    main(["report", str(comparison_folder)])
    assert capsys.readouterr().out == f"report       {comparison_folder / 'report.html'}\n"
    first = (comparison_folder / "report.html").read_bytes()
    main(["report", str(comparison_folder)])
    assert (comparison_folder / "report.html").read_bytes() == first


def test_what_is_wrong_is_said(refuse, tmp_path):
    assert "There is no folder" in refuse("report", tmp_path / "nothing")
    assert "has no results.json" in refuse("report", tmp_path)
    assert "hn report --help" in refuse("report")
    assert "unrecognized arguments: --output" in refuse("report", tmp_path, "--output", "x")


def test_help_says_what_the_folder_is(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["report", "--help"])
    assert caught.value.code == 0
    assert "What hn compare wrote" in capsys.readouterr().out
