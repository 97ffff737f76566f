from collections.abc import Callable

import pytest

from hn.miniature.recipe.report import METHOD, REWARDS, bars, draw_noise, markdown
from hn.miniature.world import TAGS

SERIES = (
    "renders",
    "reconstructions",
    "procedural sampler",
    "generator, 1 step",
    "generator, 2 steps",
    "generator, 4 steps",
)


@pytest.fixture
def measured() -> Callable[..., dict]:
    """Figures that clear every bar, with some changed: (series, tag) or another key -> value."""

    def build(**changes: float) -> dict:
        shares = {name: dict.fromkeys(("overall", *TAGS), 0.98 if name.startswith("re") else 0.6) for name in SERIES}
        flips = {name: {tag: {"each": 0.95, "all": 0.8} for tag in TAGS} for name in REWARDS}
        figures = {
            "verdicts": shares,
            "psnr_db": 38.0,
            "hard_negatives": flips,
            "megabytes": {"pipeline": 8.0, "total": 12.0},
            "images": {"renders": 1200, "generated": 752},
        }
        for key, value in changes.items():
            part, *rest = key.split("/")
            inner = figures[part]
            for name in rest[:-1]:
                inner = inner[name]
            inner[rest[-1]] = value
        return figures

    return build


def missed(figures: dict) -> list[str]:
    return [bar["name"] for bar in bars(figures) if not bar["holds"]]


def test_good_figures_clear_every_bar(measured) -> None:
    assert missed(measured()) == []


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("verdicts/renders/overall", 0.969, ["detector: right verdicts on clean renders"]),
        ("verdicts/renders/counting", 0.969, ["detector: right verdicts on clean renders, counting"]),
        ("verdicts/reconstructions/overall", 0.94, ["autoencoder: verdicts lost on reconstructions"]),
        ("verdicts/reconstructions/counting", 0.90, ["autoencoder: verdicts lost on reconstructions, counting"]),
        ("verdicts/generator, 1 step/overall", 0.44, ["generator: right verdicts at 1 step"]),
        ("verdicts/generator, 1 step/overall", 0.76, ["generator: right verdicts at 1 step"]),
        ("verdicts/generator, 4 steps/overall", 0.30, ["generator: right verdicts at 4 steps"]),
        ("verdicts/generator, 4 steps/overall", 0.90, []),
        (
            "hard_negatives/clip/position/each",
            0.89,
            ["clip: true caption above a hard negative, worst category (position)"],
        ),
        ("hard_negatives/clip/position/all", 0.10, []),
        ("hard_negatives/image_reward/position/each", 0.5, []),
        (
            "hard_negatives/image_reward/colors/each",
            0.3,
            ["image_reward: true caption above a hard negative, on average"],
        ),
        ("megabytes/total", 25.1, ["size of everything, MB"]),
    ],
)
def test_each_bar_is_missed_by_its_own_figure(measured, key: str, value: float, complaint: list[str]) -> None:
    assert missed(measured(**{key: value})) == complaint


def test_report_says_what_holds_and_that_there_is_no_teacher(measured) -> None:
    text = markdown(measured(**{"megabytes/total": 30.0}))
    assert METHOD in text and "no diffusion teacher" in METHOD
    assert "| size of everything, MB | 30.000 | <= 25 | **no** |" in text
    assert "| generator: right verdicts at 1 step | 0.600 | >= 0.45 and <= 0.75 | yes |" in text
    for name in SERIES:
        assert f"| {name} |" in text


def test_noise_is_the_same_every_time() -> None:
    assert draw_noise(3).shape == (3, 8, 8, 8)
    assert (draw_noise(3) == draw_noise(3)).all()
