"""Figures for a paper."""

from PIL import Image

from hn.report.comparison import read_comparison
from hn.report.figures import draw_figures


def test_every_figure_is_a_png_and_a_pdf(comparison_folder, tmp_path):
    written = draw_figures(read_comparison(comparison_folder), tmp_path / "figures")
    names = {path.name for path in written}
    assert names == {f"{name}.{kind}" for name in ("pareto", "intervals", "categories") for kind in ("png", "pdf")}
    assert Image.open(tmp_path / "figures" / "pareto.png").width > 2000
    pdf = (tmp_path / "figures" / "pareto.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf  # fonts that text can be searched and edited in


def test_what_has_no_data_is_not_drawn(comparison_folder, change_results, tmp_path):
    def keep_rewards(content):
        content["methods"] = {"base": {"reward": 0.5, "seconds_per_image": 0.1}}

    change_results(keep_rewards)
    written = draw_figures(read_comparison(comparison_folder), tmp_path / "figures")
    assert {path.stem for path in written} == {"pareto"}
