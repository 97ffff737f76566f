from hn.report.tables import scores_table


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
