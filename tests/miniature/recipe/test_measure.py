import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hn.miniature.recipe.measure import (
    clean_renders,
    evaluation_captions,
    hard_negative_accuracy,
    held_out_captions,
    megabytes,
    psnr,
    verdicts,
)
from hn.miniature.recipe.tokenizer import build_tokenizer
from hn.miniature.scenes import scenes_of
from hn.miniature.world import TAGS

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


def test_verdicts_are_shares_by_tag_and_their_mean(ground_truth) -> None:
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


def test_hard_negatives_are_counted_strictly() -> None:
    tokenizer = build_tokenizer()

    def reward(text_feature) -> SimpleNamespace:
        return SimpleNamespace(
            tokenizer=tokenizer,
            image_features=lambda images: torch.ones(len(images), 2),
            encode_tokens=lambda ids, mask: torch.stack([text_feature(row) for row in ids]),
        )

    blind = hard_negative_accuracy(reward(lambda ids: torch.ones(2)), "test", samples=5)
    assert list(blind) == list(TAGS)
    assert all(shares == {"each": 0, "all": 0} for shares in blind.values())  # a tie is no win

    # A score that hangs on the text alone beats half of the flips on average, and seldom all five of them.
    def arbitrary(ids: torch.Tensor) -> torch.Tensor:
        rng = torch.Generator().manual_seed(int((ids * torch.arange(1, len(ids) + 1) ** 3).sum()))
        angle = math.tau / 4 * torch.rand((), generator=rng)
        return torch.stack((angle.cos(), angle.sin()))

    chance = hard_negative_accuracy(reward(arbitrary), "test", samples=60)
    pooled = [sum(shares[kind] for shares in chance.values()) / 6 for kind in ("each", "all")]
    assert pooled[0] == pytest.approx(0.5, abs=0.15)
    assert pooled[1] == pytest.approx(1 / 6, abs=0.12)


def test_megabytes_counts_all_files_below(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "weights").write_bytes(bytes(1_500_000))
    (tmp_path / "config.json").write_bytes(bytes(500_000))
    assert megabytes(tmp_path) == pytest.approx(2.0)
