import math

import pytest
import torch

from hn.evaluation.benchmarks.compbench.spatial import SpatialMetric, SpatialOptions
from hn.evaluation.geneval import Detection
from hn.evaluation.scorer import Scorer, feature_extractor_of
from hn.rewards import ClipReward, RednessReward, RewardEnsemble
from hn.rewards.base import Reward

RED_BALL = {"tag": "colors", "include": [{"class": "ball", "count": 1, "color": "red"}], "prompt": "a red ball"}
BLUE_BALL = {"tag": "colors", "include": [{"class": "ball", "count": 1, "color": "blue"}], "prompt": "a blue ball"}
ANYTHING = {"prompt": "two cube"}
ROWS = [RED_BALL, BLUE_BALL, ANYTHING]
PROMPTS = [row["prompt"] for row in ROWS]


class Brightness(Reward):
    def score(self, images, prompts):
        return images.mean(dim=(1, 2, 3))


class RedBallDetector:
    """Sees a red ball in every image."""

    def detect(self, images):
        return [{"ball": [Detection((0, 0, 9, 9), 0.95, "red")]} for _ in images]


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32)


@pytest.fixture(scope="module")
def clip(tiny_clip_folder):
    return ClipReward(str(tiny_clip_folder), scale="cosine")


def test_every_score_is_there_by_name(images, clip):
    reward = RewardEnsemble(
        {"redness": RednessReward(), "brightness": Brightness()},
        {"redness": 2.0, "brightness": 0.0},
        {"clip": clip, "bright": Brightness()},
    )
    scores = Scorer(reward, RedBallDetector(), clip)(images, PROMPTS, ROWS)
    assert set(scores) == {
        "reward", "reward/redness", "reward/brightness", "held_out", "held_out/clip", "held_out/bright", "correct",
        "features",
    }  # fmt: skip
    torch.testing.assert_close(scores["reward"], 2 * scores["reward/redness"])
    torch.testing.assert_close(scores["held_out"], (scores["held_out/clip"] + scores["held_out/bright"]) / 2)
    torch.testing.assert_close(scores["reward/brightness"], images.mean(dim=(1, 2, 3)))
    assert scores["correct"][:2].tolist() == [1.0, 0.0]
    assert math.isnan(scores["correct"][2])
    torch.testing.assert_close(scores["features"], clip.image_features(images))
    assert all(score.dtype == torch.float32 and len(score) == 3 for score in scores.values())


def test_metrics_of_other_benchmarks(images, clip):
    metric = SpatialMetric(RedBallDetector(), SpatialOptions(least=0.0))
    scorer = Scorer(RewardEnsemble({"redness": RednessReward()}), benchmarks=[metric])
    rows = [{"prompt": "a ball near a cube"}, *ROWS[1:]]
    found = scorer(images, [row["prompt"] for row in rows], rows)["benchmark/spatial"]
    assert found[0] == pytest.approx(0.25 * 0.95) and found[1:].isnan().all()


def test_what_is_not_asked_for_is_left_out(images):
    scores = Scorer(RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0}))(images, PROMPTS, ROWS)
    assert set(scores) == {"reward", "reward/redness"}


def test_features_come_from_the_first_held_out_reward_that_has_them(clip):
    rewards = ({"redness": RednessReward()}, {"redness": 1.0})
    assert feature_extractor_of(RewardEnsemble(*rewards, {"bright": Brightness(), "clip": clip})) is clip
    assert feature_extractor_of(RewardEnsemble(*rewards, {"bright": Brightness()})) is None
    assert feature_extractor_of(RewardEnsemble({"clip": clip}, {"clip": 1.0})) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_never_correct_and_has_no_scores(images, clip, value):
    reward = RewardEnsemble({"brightness": Brightness()}, {"brightness": 1.0}, {"clip": clip})
    scorer = Scorer(reward, RedBallDetector(), clip)
    expected = scorer(images, PROMPTS, ROWS)
    for place in (0, 2):
        broken = images.clone()
        broken[place, 1, 3, 4] = value
        scores = scorer(broken, PROMPTS, ROWS)
        others = [i for i in range(3) if i != place]
        for name, score in scores.items():
            torch.testing.assert_close(score[others], expected[name][others], equal_nan=True)
            if name != "correct":
                assert score[place].isnan().all(), name
        assert scores["correct"].tolist()[:2] == [0.0 if place == 0 else 1.0, 0.0]
        assert scorer.image_features(broken)["features"][place].isnan().all()
