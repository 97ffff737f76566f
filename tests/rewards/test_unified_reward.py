from pathlib import Path

import pytest
import torch

from hn.rewards import UnifiedReward
from tests import tiny_vlms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.qwen2_5_vl(tmp_path_factory.mktemp("qwen"))


def test_the_published_example_of_an_answer(folder: Path) -> None:
    """As in the repository's point_score_ACS_image_generation.py; the score is the mean of the three grades."""
    answer = """

Alignment Score (1-5): 2.694700002670288
Coherence Score (1-5): 2.371500015258789
Style Score (1-5): 2.802500009536743
"""
    reward = UnifiedReward(str(folder))
    assert reward.read(answer) == pytest.approx((2.6947 + 2.3715 + 2.8025) / 3, abs=1e-6)
    with pytest.raises(ValueError, match=r"Style Score"):
        reward.read(answer.replace("Style", "Fashion"))


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("cube (object): 1\nred (color): 0\nFinal Score: 3.25", 3.25),
        ("Final Score:4", 4.0),
        ("Final Score: 5.", 5.0),
        ("Final Score: 45", None),
        ("Final Score: 0", None),
        ("Score: 3", None),
    ],
)
def test_the_final_score_of_the_first_version(folder: Path, answer: str, score: float | None) -> None:
    reward = UnifiedReward(str(folder), version="1.0", fallback=-7.0)
    assert reward.read(answer) == (-7.0 if score is None else score)


def test_the_published_questions(folder: Path) -> None:
    caption = "Text Caption: [a {red} cube]"
    for version, form in (
        ("2.0", "\nStyle Score (1-5): Z\n\n"),
        ("1.0", "a score from 1 to 5 after 'Final Score:'.\n"),
    ):
        question = UnifiedReward(str(folder), version=version).question("a {red} cube")
        assert question.endswith(f"Your task is provided as follows:\n{caption}") and form in question


def test_an_answer_in_another_form(folder: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match="finds no number"):
        UnifiedReward(str(folder), max_new_tokens=2)(images, ["a", "b"])
    assert UnifiedReward(str(folder), max_new_tokens=2, fallback=1.5)(images, ["a", "b"]).tolist() == [1.5, 1.5]
    with pytest.raises(ValueError, match="Unknown version '3'; choose '2.0' or '1.0'"):
        UnifiedReward(str(folder), version="3")
