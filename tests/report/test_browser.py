"""The page in a real browser: it sorts, filters, shows its images, and nothing overlaps."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from hn.report.comparison import read_comparison
from hn.report.page import render

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Runs after the page's own script, and leaves what it saw in an attribute of the document.
LOOK = """
<script>
addEventListener("load", () => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const seen = (element) => element.checkVisibility();
  const box = (element) => element.getBoundingClientRect();
  const cross = (a, b, low, high) => a[low] < b[high] - 1 && b[low] < a[high] - 1;
  const overlap = (a, b) => cross(a, b, "left", "right") && cross(a, b, "top", "bottom");
  const pairs = (elements) => {
    const boxes = elements.filter(seen).map((element) => [element.textContent, box(element)]);
    const after = (a, k) => boxes.slice(k + 1).filter(([, b]) => overlap(a, b));
    return boxes.flatMap(([name, a], k) => after(a, k).map(([other]) => [name, other]));
  };
  const told = {
    rows: all("#table tbody tr").map((row) => row.dataset.method),
    sorted: all("#table [aria-sort]").map((heading) => [heading.dataset.sort, heading.getAttribute("aria-sort")]),
    prompts: all("#gallery tbody").filter(seen).map((row) => Number(row.dataset.index)),
    columns: all("#gallery thead th").filter(seen).map((cell) => cell.dataset.method),
    count: document.querySelector("#gallery .count").textContent,
    panels: all("[data-panel]").filter(seen).map((panel) => [panel.dataset.panel, panel.dataset.value]),
    images: all("#gallery img").map((image) => [image.complete, image.naturalWidth]),
    overlapping: all(".plot").flatMap((plot) => pairs(all("text", plot)))
      .concat(all(".row").flatMap((row) => pairs([...row.children])))
      .concat(pairs(all("#table th button, #table td")))
      .concat(pairs(all("h1, h2, p, figcaption, .switch, .filters, .facts > div"))),
    cut: all(".row .name, .gallery thead span, .switch button").filter(seen)
      .filter((element) => element.scrollWidth > element.clientWidth + 1).map((element) => element.textContent),
    large: [document.getElementById("large").open, document.querySelector("#large img").alt, location.hash],
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  document.documentElement.dataset.told = JSON.stringify(told);
});
</script>
<script>addEventListener("error", (event) => document.documentElement.dataset.error = event.message);</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser to render the page with: none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture
def chromium(browser: str, tmp_path: Path) -> Callable[..., str]:
    """Opens a page without a display: what it prints, and what it says on the error stream."""

    def run(page: Path, *options: str, address: str = "", width: int = 1400, height: int = 1000) -> tuple[str, str]:
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             f"--window-size={width},{height}", "--virtual-time-budget=3000", "--enable-logging=stderr",
             *options, f"{page.as_uri()}{address}"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout, done.stderr

    return run


@pytest.fixture
def look(chromium, comparison_folder, tmp_path) -> Callable[..., dict]:
    """What the page with `LOOK` in it told at an address, after a script ran; no error may be logged."""

    def told(address: str = "", script: str = "", **size: int) -> dict:
        page = tmp_path / "page.html"
        scripts = f'<script>addEventListener("load", () => {{ {script} }});</script>{LOOK}'
        page.write_text(render(read_comparison(comparison_folder)).replace("<head>", f"<head>{scripts}", 1))
        document, errors = chromium(page, "--dump-dom", address=address, **size)
        assert "CONSOLE" not in errors and "data-error" not in document[:4000]
        return json.loads(unescape(re.search(r'data-told="([^"]*)"', document)[1]))

    return told


def test_the_page_as_it_opens(look):
    told = look()
    assert told["rows"] == ["base", "base_2_steps", "hypernetwork", "finetune", "best_of_8"] == told["columns"]
    assert told["sorted"] == []
    assert told["prompts"] == [0, 1, 2] and told["count"] == "3 prompts"
    assert told["panels"] == [["pareto", "reward"], ["bars", "geneval"]]
    assert told["images"] == [[True, 32]] * 15


def test_columns_sort_by_their_numbers(look):
    told = look("#sort=reward")
    assert told["rows"] == ["best_of_8", "finetune", "hypernetwork", "base", "base_2_steps"]
    assert told["sorted"] == [["reward", "descending"]]
    told = look("#sort=reward&dir=asc")
    assert told["rows"] == ["base_2_steps", "base", "hypernetwork", "finetune", "best_of_8"]
    assert told["sorted"] == [["reward", "ascending"]]
    assert look("#sort=seconds")["rows"][-1] == "best_of_8"


def test_what_was_not_measured_comes_last(look, change_results):
    change_results(lambda content: content["methods"]["base"].update(kl_nats=None))
    assert look("#sort=kl")["rows"][-1] == look("#sort=kl&dir=desc")["rows"][-1] == "base"


def test_the_gallery_is_filtered(look):
    assert look("#category=counting")["prompts"] == [2]
    told = look("#q=BALL&hide=finetune,best_of_8")
    assert told["prompts"] == [0] and told["count"] == "1 of 3 prompts"
    assert told["columns"] == ["base", "base_2_steps", "hypernetwork"]
    assert look("#differ=1")["prompts"] == [1, 2]  # the first prompt's first image is right with every method
    assert look("#q=nothing+like+it")["prompts"] == []


def test_clicks_do_what_the_address_does(look):
    click = "document.querySelector('{}').click();"
    script = click.format("th[data-sort=reward] button") * 2 + click.format(
        "[data-filter=category] [data-value=counting]"
    )
    told = look(script=script + click.format("[data-filter=hide] [data-value=base]"))
    assert told["large"][2] == "#sort=reward&dir=asc&category=counting&hide=base"
    assert told["rows"][0] == "base_2_steps" and told["prompts"] == [2] and told["columns"][0] == "base_2_steps"


def test_a_picture_is_enlarged_and_the_next_one_follows(look):
    steps = ("document.querySelector('.picture').click();", "document.querySelector('[data-move=\"1\"]').click();")
    assert look(script=steps[0])["large"] == [True, "base: a red ball, correct", ""]
    assert look(script="".join(steps))["large"] == [True, "base, 2 steps: a red ball, correct", ""]


def test_the_plots_switch_to_another_score(look):
    told = look("#pareto=geneval&bars=held_out_reward")
    assert told["panels"] == [["pareto", "geneval"], ["bars", "held_out_reward"]]


@pytest.mark.parametrize("width", [1400, 900, 500])
def test_nothing_overlaps_or_is_cut_off(look, width):
    told = look("", width=width)
    assert told["overlapping"] == []
    assert told["cut"] == []
    assert told["wide"] <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_of_the_page_is_not_empty(chromium, comparison_folder, tmp_path, scheme):
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(render(read_comparison(comparison_folder)))
    setting = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    chromium(page, f"--screenshot={picture}", setting)
    with Image.open(picture) as image:
        assert image.size == (1400, 1000)
        ground = image.convert("L").getpixel((2, 2))
        assert ground > 200 if scheme == "light" else ground < 60
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 50
