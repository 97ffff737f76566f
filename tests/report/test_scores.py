from pathlib import Path

from hn.report.tables import scores_table
from hn.utils.files import write_csv


def test_a_column_for_each_method() -> None:
    def of(mean: float, std: float | None) -> dict:
        return {"clip": {"mean": mean, "std": std}, "jpeg_size": {"mean": 10 * mean, "std": None}}

    shown = scores_table({"all": of(0.5, 0.1)}, "4 images").splitlines()
    assert [line.split() for line in shown if line and "─" not in line] == [
        ["4", "images"], ["metric", "mean", "±", "std"],
        ["clip", "0.5000", "±", "0.1000"], ["jpeg_size", "5.0000", "±", "-"],
    ]  # fmt: skip
    one_method = scores_table({"all": of(0.5, 0.1), "base": of(0.5, 0.1)}, "4 images").splitlines()
    assert one_method == shown
    two = scores_table({"all": of(9, 9), "base": of(0.5, 0.1), "hypernetwork": of(0.7, 0.2)}, "8 images")
    assert "clip" in two and "9.0" not in two
    assert "base: mean ± std  hypernetwork: mean ± std" in two
    assert two.index("0.5000 ± 0.1000") < two.index("0.7000 ± 0.2000")


def test_csv_quotes_what_needs_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    rows = [
        {"file": "a.png", "prompt": 'a "red", ball', "scores": {"clip": 0.1, "x": None}},
        {"file": "b.png", "prompt": "é\nline", "scores": {"clip": 1e-7, "x": 2.0}},
    ]
    write_csv(tmp_path / "scores.csv", rows)
    assert (tmp_path / "scores.csv").read_bytes().decode() == (
        'file,prompt,clip,x\na.png,"a ""red"", ball",0.1,\nb.png,"é\nline",1e-07,2.0\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]
