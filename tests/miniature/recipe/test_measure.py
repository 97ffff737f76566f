import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from hn.miniature.recipe.measure import (
    _scores,
    clean_renders,
    evaluation_captions,
    hard_negative_accuracy,
    held_out_captions,
    megabytes,
    psnr,
    verdicts,
)
from hn.miniature.scenes import scenes_of
from hn.miniature.world import TAGS
from hn.rewards.base import Reward
from tests.scenes import ground_truth

PROMPTS = Path(__file__).parents[3] / "data" / "prompts" / "miniature"


class Oracle:
    """A detector that was told what is in the images, in their order."""

    def __init__(self, found: list) -> None:
        self.left = list(found)

    def detect(self, images: torch.Tensor) -> list:
        found, self.left = self.left[: len(images)], self.left[len(images) :]
        return found


def test_evaluation_captions_are_those_of_the_test_file() -> None:
    rows = [json.loads(line) for line in (PROMPTS / "test.jsonl").open()]
    assert [caption.metadata() for caption in evaluation_captions()] == rows


def test_held_out_captions_combine_only_what_is_held_out() -> None:
    captions = held_out_captions(30)
    assert [sum(caption.tag == tag for caption in captions) for tag in TAGS] == [30] * 6
    assert all(caption.components <= {"test"} for caption in captions)
    assert captions == held_out_captions(30) != held_out_captions(30, seed=1)


def test_clean_renders_are_decided_by_the_seed() -> None:
    captions = held_out_captions(25)
    images = clean_renders(captions)
    assert images.shape == (150, 3, 32, 32)
    assert torch.equal(images, clean_renders(captions))


def test_verdicts_are_shares_by_tag_and_their_mean() -> None:
    captions = held_out_captions(50, seed=2)
    rows = [caption.metadata() for caption in captions]
    found = ground_truth(scenes_of(captions, torch.Generator().manual_seed(0)))
    for index in range(100, 120):  # counting: nothing is seen in 20 of 50
        found[index] = {}
    shares = verdicts(Oracle(found), torch.zeros(300, 3, 32, 32), rows)
    assert list(shares) == ["overall", *TAGS]
    assert shares["counting"] == pytest.approx(0.6)
    assert shares["color_attr"] == shares["two_object"] == 1
    assert shares["overall"] == pytest.approx(sum(shares[tag] for tag in TAGS) / 6)


def test_psnr_of_a_known_error() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    shifted = images + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert psnr(shifted, images) == pytest.approx((20 + 40) / 2, abs=1e-3)


class ScoreOfText(Reward):
    """Looks at the prompt alone."""

    def __init__(self, function: Callable[[str], float]) -> None:
        super().__init__()
        self.function = function

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([self.function(prompt) for prompt in prompts])


def test_hard_negatives_are_counted_strictly() -> None:
    blind = hard_negative_accuracy(ScoreOfText(lambda prompt: 1.0), "test", samples=5)
    assert list(blind) == list(TAGS)
    assert all(shares == {"each": 0, "all": 0} for shares in blind.values())  # a tie is no win

    # A score that hangs on the text alone beats half of the flips on average, and seldom all five of them.
    arbitrary = ScoreOfText(lambda prompt: random.Random(prompt).random())
    chance = hard_negative_accuracy(arbitrary, "test", samples=60)
    pooled = [sum(shares[kind] for shares in chance.values()) / 6 for kind in ("each", "all")]
    assert pooled[0] == pytest.approx(0.5, abs=0.15)
    assert pooled[1] == pytest.approx(1 / 6, abs=0.12)


def test_every_image_is_scored_with_its_own_texts() -> None:
    class Brightest(Reward):
        def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
            return images.mean((1, 2, 3)) + torch.tensor([float(prompt) for prompt in prompts])

    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 4, 4) * 100
    texts = [["1"] * 100, ["2", "3"], ["4"] * 60]  # more than one batch
    scores = _scores(Brightest(), images, texts)
    assert [len(group) for group in scores] == [100, 2, 60]
    assert scores[1].tolist() == [102, 103] and (scores[0] == 1).all() and (scores[2] == 204).all()


def test_megabytes_counts_all_files_below(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "weights").write_bytes(bytes(1_500_000))
    (tmp_path / "config.json").write_bytes(bytes(500_000))
    assert megabytes(tmp_path) == pytest.approx(2.0)
