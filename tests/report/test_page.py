"""The page of a comparison, as HTML."""

import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from hn.report.comparison import METRICS, read_comparison
from hn.report.page import category_strips, difference_strip, number, render, write_report
from hn.report.styles import styles_of
from hn.utils.images import save_png

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements of a page with their attributes and text; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, text in self._open:
            text.append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of elements with these attributes; `data_x` means `data-x`."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [
            (own, "".join(text).strip())
            for name, own, text in self.elements
            if name == tag and wanted.items() <= own.items()
        ]


@pytest.fixture
def comparison(comparison_folder):
    return read_comparison(comparison_folder)


@pytest.fixture
def page(comparison):
    return Page(render(comparison))


def test_every_method_has_a_row_with_its_numbers(page, comparison):
    rows = [own["data-method"] for own, _ in page.all("tr") if "data-method" in own]
    assert rows == list(comparison.methods)
    sorts = [own["data-sort"] for own, _ in page.all("th") if "data-sort" in own]
    assert sorts[:5] == ["method", "reward", "held_out", "rewards.redness", "geneval"]
    assert {"geneval.colors", "geneval.counting", "seconds", "nfe", "kl"} <= set(sorts)
    assert "memory" not in sorts  # not measured on a CPU
    cells = [own["data-value"] for own, _ in page.all("td") if "data-value" in own]
    assert len(cells) == len(rows) * (len(sorts) - 1)
    values = [float(cell) for cell in cells[:: len(sorts) - 1]]
    assert values == [method["reward"] for method in comparison.methods.values()]


def test_the_best_is_marked_and_intervals_stand_below(page, comparison):
    best = [text for own, text in page.all("td", **{"class": "best"})]
    reward = comparison.methods["best_of_8"]
    low, high = reward["reward_ci95"]
    assert f"{reward['reward']:.3f}{low:.3f}\u2009\N{EN DASH}\u2009{high:.3f}" in best


def test_every_image_is_there_once_with_its_verdict(page, comparison, comparison_folder):
    pictures = [own for own, _ in page.all("img") if own["alt"]]
    assert len({own["src"] for own in pictures}) == len(pictures) == 3 * len(comparison.methods)
    styles = styles_of(comparison.methods)
    for row in comparison.gallery:
        for name, image in row.images.items():
            verdict = "correct" if image.correct else "not correct"
            (own,) = [own for own in pictures if own["alt"] == f"{styles[name].label}: {row.prompt}, {verdict}"]
            data = base64.b64decode(own["src"].removeprefix("data:image/webp;base64,"))
            with Image.open(io.BytesIO(data)) as shown, Image.open(image.path) as kept:
                assert shown.convert("RGB").tobytes() == kept.convert("RGB").tobytes()  # small ones lose nothing
            assert own["class"] == "pixels"
    badges = Counter(own["class"] for own, _ in page.all("b") if own.get("class", "").startswith("badge"))
    correct = [image.correct for row in comparison.gallery for image in row.images.values()]
    assert badges == {"badge yes": correct.count(True), "badge no": correct.count(False)}


def test_large_images_are_scaled_down(comparison_folder):
    path = comparison_folder / "gallery" / "base" / "00000.png"
    save_png(torch.rand(3, 600, 1200), path, {})
    pictures = [own for own, _ in Page(render(read_comparison(comparison_folder))).all("img") if own["alt"]]
    (own,) = [own for own in pictures if own["alt"].startswith("base: a red ball")]
    assert (own["width"], own["height"]) == ("512", "256")
    assert "class" not in own


def test_an_image_that_was_cut_off_is_named(comparison_folder):
    path = comparison_folder / "gallery" / "base" / "00001.png"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match="base/00001.png cannot be read as an image .*; remove it"):
        render(read_comparison(comparison_folder))
    path.rename(path.with_name("notes.png"))
    page = Page(render(read_comparison(comparison_folder)))
    assert [text for _, text in page.all("span", **{"class": "none"})] == ["no image"]


def test_nothing_is_loaded_from_elsewhere(comparison):
    text = render(comparison)
    page = Page(text)
    for _, attributes, _ in page.elements:
        for name in ("src", "href", "action", "srcset"):
            value = attributes.get(name) or "data:"
            assert value.startswith(("data:", "#")), value
    assert not re.search(r"https?://|@import|url\(", text)
    (policy,) = [own["content"] for own, _ in page.all("meta") if own.get("http-equiv")]
    assert "default-src 'none'" in policy


def test_prompts_are_text_and_no_html(page):
    captions = [text for own, text in page.all("tr", **{"class": "caption"})]
    assert 'a "green" cube & <b>more</b> colors' in captions
    assert [own["data-prompt"] for own, _ in page.all("tbody") if "data-prompt" in own][
        1
    ] == 'a "green" cube & <b>more</b>'


def test_facts_and_findings(page):
    facts = dict(zip([text for _, text in page.all("dt")], [text for _, text in page.all("dd")], strict=True))
    assert facts["Finished"] == "2026-01-02 03:04 UTC"
    assert facts["Images"] == "8 a method, of 4 prompts"
    assert facts["Hypernetwork"] == "runs/tiny/one/hypernet"
    (findings,) = [text for _, text in page.all("p", **{"class": "findings"})]
    assert "GenEval +0.500 (" in findings and "2.0 times the base's seconds" in findings


def test_every_trained_network_is_named_with_its_weights_and_curves(comparison_folder, change_results):
    def add(content):
        content["weights"] = {"hypernetwork": "runs/a/one/hypernet", "base_2_steps": "runs/b/one/hypernet"}
        content["updates"] = {"hypernetwork": 1, "base_2_steps": None}
        content["curves"] = {**content["curves"], "base_2_steps": content["curves"]["hypernetwork"], "finetune": {}}

    change_results(add)
    page = Page(render(read_comparison(comparison_folder)))
    facts = dict(zip([text for _, text in page.all("dt")], [text for _, text in page.all("dd")], strict=True))
    assert facts["Hypernetwork"] == "runs/a/one/hypernet (1 update)"
    assert facts["Weights of base, 2 steps"] == "runs/b/one/hypernet"
    legends = [text for _, text in page.all("ul", **{"class": "legend"})]
    assert legends[-1] == "hypernetworkbase, 2 steps"


def test_sections_without_data_are_left_out(comparison_folder, change_results):
    def strip(content):
        content.pop("curves")
        for method in content["methods"].values():
            for key in [key for key in method if key.endswith("ci95") or key in ("categories", "geneval")]:
                method.pop(key)

    change_results(strip)
    (comparison_folder / "images.csv").unlink()
    page = Page(render(read_comparison(comparison_folder)))
    assert [own["id"] for own, _ in page.all("section")] == ["results", "differences", "pareto"]


def test_a_comparison_of_the_base_alone_has_a_page(comparison_folder, change_results):
    change_results(lambda content: content.update(methods={"base": content["methods"]["base"]}))
    assert [
        own["data-method"] for own, _ in Page(render(read_comparison(comparison_folder))).all("tr", data_method="base")
    ]


def test_a_method_that_diverged_has_dashes(comparison_folder, change_results):
    change_results(lambda content: content["methods"]["finetune"].update(reward=None, reward_ci95=None))
    page = Page(render(read_comparison(comparison_folder)))
    cells = [text for own, text in page.all("td", data_value="")]
    assert cells and set(cells) == {"\N{EN DASH}"}


def test_numbers_for_people():
    minus = "\N{MINUS SIGN}"
    assert [number(value, 2) for value in (1.0, -0.126, -0.001, None)] == [
        "1.00",
        f"{minus}0.13",
        "0.00",
        "\N{EN DASH}",
    ]
    assert [number(value, 1, sign=True) for value in (0.26, -0.3, -0.01)] == ["+0.3", f"{minus}0.3", "+0.0"]


def test_differences_are_to_the_base(comparison):
    strip = difference_strip(comparison, METRICS[0], styles_of(comparison.methods))
    base = comparison.methods["base"]["reward"]
    texts = [number(m["reward"] - base, 3, sign=True) for n, m in comparison.methods.items() if n != "base"]
    assert [row.text for row in strip.rows] == texts
    assert all(0 <= row.low <= row.dot <= row.high <= 100 for row in strip.rows)
    ordered = sorted(strip.rows, key=lambda row: row.dot)
    assert [row.style.label for row in ordered] == ["base, 2 steps", "hypernetwork", "finetune", "best of 8"]
    assert 0 <= strip.zero <= ordered[1].dot


def test_shares_of_categories_are_bars_from_zero_to_one(comparison):
    colors, counting = category_strips(comparison, METRICS[2], styles_of(comparison.methods))
    assert (colors.title, colors.note) == ("colors", "2 prompts, 4 images")
    assert [row.dot for row in colors.rows] == [25, 25, 100, 75, 100]
    assert [row.dot for row in counting.rows] == [25, 50, 50, 75, 75]
    assert colors.zero == 0 and colors.is_bar


def test_the_page_is_written_beside_its_figures(comparison_folder):
    path = write_report(comparison_folder)
    assert path == comparison_folder / "report.html" and path.read_text().startswith("<!doctype html>")
    assert len(list((comparison_folder / "figures").iterdir())) == 6


def test_templates_come_with_the_package():
    import tomllib
    from pathlib import Path as File

    import hn.report

    folder = File(hn.report.__file__).parent
    project = tomllib.loads((folder.parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["hn.report"]
    packed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert packed == set((folder / "templates").iterdir()) and len(packed) == 3


def test_unequal_budgets_and_validations_are_said(comparison_folder, change_results):
    def edit(content):
        content["weights"] |= {"finetune": "runs/tuned/one/hypernet", "hub": "owner/name"}
        content["updates"] = {"hypernetwork": 300, "finetune": 60}
        other = {"step": [0], "value": [0.25]}
        content["curves"]["finetune"] = content["curves"]["hypernetwork"] | {"val/base_reward": other}

    assert not Page(render(read_comparison(comparison_folder))).all("p", **{"class": "caution"})
    change_results(edit)
    page = Page(render(read_comparison(comparison_folder)))
    (_, budgets), (_, validations) = page.all("p", **{"class": "caution"})
    assert "unequal numbers of updates: hypernetwork 300, finetune 60, hub not known" in budgets
    assert "the base's reward is 0.5 in that of hypernetwork, 0.25 in that of finetune" in validations
    assert not any(text == "On validation prompts. Dashed: the base." for _, text in page.all("p"))


def test_a_page_of_a_training_says_what_is_in_its_files_alone(tmp_path, comparison_folder, change_results):
    for name in ("timing.json", "images.csv", "results.csv"):
        (comparison_folder / name).unlink()
    change_results(lambda content: [content.pop(name) for name in ("reward_weights", "curves", "weights")])
    page = render(read_comparison(comparison_folder))
    assert "Finished" not in page and "Trained rewards" not in page
    ((_, footer),) = Page(page).all("footer")
    assert footer == "Beside this page: results.json."
    finished = {"finished": "2026-01-02T03:04:05+00:00"}
    change_results(lambda content: content.update(training=finished))
    assert "2026-01-02 03:04 UTC" in render(read_comparison(comparison_folder))
