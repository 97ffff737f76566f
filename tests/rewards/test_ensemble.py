import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from hn.rewards import (
    AestheticReward,
    ClipReward,
    HPSv2Reward,
    JpegSizeReward,
    PickScoreReward,
    RednessReward,
    Reward,
    RewardEnsemble,
    SaturationReward,
    preprocess,
)
from hn.rewards.score_statistics import ScoreStatistics
from hn.search import BestOfN
from hn.utils.errors import InputError
from tests import tiny_rewards


class Brightness(Reward):
    """Mean of the image; remembers whether gradients were on."""

    with_gradients: bool | None = None

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.with_gradients = torch.is_grad_enabled()
        return images.flatten(1).mean(dim=1)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 4, 4, requires_grad=True)


def test_total_is_the_weighted_sum_of_the_components(images: Tensor) -> None:
    ensemble = RewardEnsemble({"red": RednessReward(), "bright": Brightness()}, {"bright": 0.5, "red": 2.0})
    output = ensemble(images, ["", ""])
    red, bright = RednessReward()(images, ["", ""]), Brightness()(images, ["", ""])
    assert list(output.components) == ["red", "bright"]
    assert torch.equal(output.components["red"], red) and torch.equal(output.components["bright"], bright)
    torch.testing.assert_close(output.total, 2 * red + 0.5 * bright)
    assert torch.equal(ensemble.total(images, ["", ""]), output.total)


def test_a_reward_of_weight_zero_is_reported_without_gradients(images: Tensor) -> None:
    brightness = Brightness()
    ensemble = RewardEnsemble({"red": RednessReward(), "bright": brightness}, {"red": 1.0, "bright": 0.0})
    output = ensemble(images, ["", ""])
    assert brightness.with_gradients is False and not output.components["bright"].requires_grad
    torch.testing.assert_close(output.components["bright"], images.flatten(1).mean(1))
    (gradient,) = torch.autograd.grad(output.total.sum(), images)
    assert torch.allclose(gradient[:, 0], torch.tensor(1 / 16)) and torch.allclose(
        gradient[:, 1:], torch.tensor(-1 / 32)
    )


def test_no_gradients_are_switched_on_where_they_are_off(images: Tensor) -> None:
    brightness = Brightness()
    with torch.no_grad():
        RewardEnsemble({"bright": brightness}, {"bright": 1.0})(images, ["", ""])
    assert brightness.with_gradients is False


def test_held_out_rewards_are_scored_apart_and_without_gradients(images: Tensor) -> None:
    held_out = Brightness()
    ensemble = RewardEnsemble({"red": RednessReward()}, {"red": 1.0}, {"bright": held_out})
    assert list(ensemble(images, ["", ""]).components) == ["red"]
    assert held_out.with_gradients is None  # not even called
    scores = ensemble.score_held_out(images, ["", ""])
    assert list(scores) == ["bright"] and not scores["bright"].requires_grad
    assert held_out.with_gradients is False
    assert RewardEnsemble({"red": RednessReward()}, {"red": 1.0}).score_held_out(images, ["", ""]) == {}


@pytest.mark.parametrize(
    ("weights", "held_out", "message"),
    [
        ({"red": 1.0, "blue": 1.0}, None, r"Weights for unknown rewards \['blue'\]; the rewards are \['red'\]"),
        ({}, None, r"Rewards without a weight: \['red'\]"),
        ({"red": 1.0}, {"red": RednessReward()}, "cannot be trained on and held out at once"),
        ({"red": 1.0}, {"clip.vit": RednessReward()}, "cannot be named"),
    ],
)
def test_names_that_do_not_fit_are_refused(weights, held_out, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardEnsemble({"red": RednessReward()}, weights, held_out)


def test_an_empty_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one reward"):
        RewardEnsemble({}, {})


def test_members_that_are_no_rewards_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['red'\] are no rewards"):
        RewardEnsemble({"red": torch.nn.Identity()}, {"red": 1.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of all towers; PickScore, HPSv2 and aesthetic preprocess alike, CLIP with a mean of its own."""
    folder = tmp_path_factory.mktemp("ensemble")
    for name in ("clip", "pickscore", "hpsv2", "aesthetic"):
        getattr(tiny_rewards, name)(folder / name)
    return folder


@pytest.fixture(scope="module")
def towers(folder: Path) -> Callable[[], dict[str, Reward]]:
    """Makes all towers anew, in float64."""
    classes = {"clip": ClipReward, "pickscore": PickScoreReward, "hpsv2": HPSv2Reward, "aesthetic": AestheticReward}
    arguments = {name: getattr(tiny_rewards, name)(folder / name) for name in classes}
    return lambda: {name: classes[name](**arguments[name], dtype="float64") for name in classes}


PROMPTS = ["a red cube", "two blue ball"]
WEIGHTS = {"aesthetic": 0.0, "clip": 0.01, "pickscore": 0.05, "hpsv2": 5.0}


def test_a_batch_is_preprocessed_once_with_the_same_scores_and_gradients(towers, monkeypatch) -> None:
    sizes, normalised = [], []
    resize, normalise = preprocess.resize_and_crop, preprocess.ClipPreprocess.normalise
    rewards = towers()
    rewards = {name: rewards[name] for name in WEIGHTS}  # one that needs no gradients first
    images = torch.rand(2, 3, 50, 41, dtype=torch.float64, requires_grad=True)
    expected = {name: reward(images, PROMPTS) for name, reward in rewards.items()}
    total = sum(WEIGHTS[name] * score for name, score in expected.items())
    (gradient,) = torch.autograd.grad(total.sum(), images)

    monkeypatch.setattr(preprocess, "resize_and_crop", lambda *args: (sizes.append(args[1]), resize(*args))[1])
    monkeypatch.setattr(
        preprocess.ClipPreprocess,
        "normalise",
        lambda self, x: (normalised.append(x.requires_grad), normalise(self, x))[1],
    )
    output = RewardEnsemble(rewards, WEIGHTS)(images, PROMPTS)
    assert sizes == [32] and normalised == [True, True]
    assert list(output.components) == list(WEIGHTS)
    for name, score in output.components.items():
        assert torch.equal(score, expected[name]) and score.requires_grad == (name != "aesthetic")
    assert torch.equal(output.total, total)
    torch.testing.assert_close(torch.autograd.grad(output.total.sum(), images)[0], gradient, rtol=1e-10, atol=1e-14)

    sizes.clear(), normalised.clear()
    held_out = RewardEnsemble({"red": RednessReward()}, {"red": 1.0}, rewards).score_held_out(images, PROMPTS)
    assert sizes == [32] and normalised == [False, False]
    with torch.no_grad():  # open_clip's attention has kernels of its own for this
        assert all(torch.equal(held_out[name], reward(images, PROMPTS)) for name, reward in rewards.items())


def test_pixels_that_nothing_trained_needs_are_made_without_gradients(towers, monkeypatch) -> None:
    graphs = []
    normalise = preprocess.ClipPreprocess.normalise

    def watch(self: preprocess.ClipPreprocess, cropped: Tensor) -> Tensor:
        graphs.append(cropped.requires_grad)
        return normalise(self, cropped)

    monkeypatch.setattr(preprocess.ClipPreprocess, "normalise", watch)
    rewards = {**towers(), "red": RednessReward()}
    weights = {**dict.fromkeys(WEIGHTS, 0.0), "red": 1.0}
    images = torch.rand(2, 3, 50, 41, dtype=torch.float64, requires_grad=True)
    RewardEnsemble(rewards, weights)(images, PROMPTS).total.sum().backward()
    assert graphs == [False, False] and images.grad.any()


def test_half_precision_images_are_preprocessed_in_full(folder: Path) -> None:
    reward = ClipReward(str(folder / "clip"))
    images = torch.rand(2, 3, 64, 64).bfloat16()
    output = RewardEnsemble({"clip": reward}, {"clip": 1.0})(images, PROMPTS)
    assert torch.equal(output.total, reward(images.float(), PROMPTS))


def test_shapes_are_checked_once_for_all(folder: Path) -> None:
    ensemble = RewardEnsemble({"clip": ClipReward(str(folder / "clip"))}, {"clip": 1.0}, {"red": RednessReward()})
    for score in (ensemble, ensemble.score_held_out):
        with pytest.raises(ValueError, match="2 images, prompts 1"):
            score(torch.rand(2, 3, 8, 8), ["a"])
        with pytest.raises(ValueError, match=r"takes images \[B, 3, H, W\]"):
            score(torch.rand(3, 8, 8), ["a"])


def test_published_weights_where_none_are_given(towers) -> None:
    assert RewardEnsemble(towers()).weights == WEIGHTS
    assert RewardEnsemble({"red": RednessReward()}).weights == {"red": 1.0}
    with pytest.raises(ValueError, match=r"\['bright'\] have no published weight: give `weights`"):
        RewardEnsemble({"red": RednessReward(), "bright": Brightness()})
    with pytest.raises(ValueError, match="with `normalise` give weights as well"):
        RewardEnsemble({"red": RednessReward()}, normalise={"red": ScoreStatistics(0, 1)})


def test_normalised_scores_are_weighed_and_published_ones_reported(images: Tensor) -> None:
    statistics = {"red": ScoreStatistics(mean=-0.1, std=0.02)}
    ensemble = RewardEnsemble(
        {"red": RednessReward(), "bright": Brightness()}, {"red": 3.0, "bright": 2.0}, normalise=statistics
    )
    output = ensemble(images, ["", ""])
    red, bright = RednessReward()(images, ["", ""]), Brightness()(images, ["", ""])
    assert torch.equal(output.components["red"], red)
    torch.testing.assert_close(output.total, 3 * (red + 0.1) / 0.02 + 2 * bright)
    with pytest.raises(ValueError, match=r"Statistics of unknown rewards \['blue'\]"):
        RewardEnsemble({"red": RednessReward()}, {"red": 1.0}, normalise={"blue": statistics["red"]})


def test_measured_statistics_make_scores_standard() -> None:
    batches = [(torch.rand(n, 3, 4, 4), [""] * n) for n in (5, 3)]
    rewards, weights = {"red": RednessReward(), "saturation": SaturationReward()}, {"red": 1.0, "saturation": 0.0}
    statistics = RewardEnsemble(rewards, weights).measure_statistics(iter(batches))
    assert list(statistics) == ["red", "saturation"]
    ensemble = RewardEnsemble(rewards, weights, normalise=statistics)
    totals = torch.cat([ensemble.total(*batch) for batch in batches])
    assert totals.mean().item() == pytest.approx(0, abs=1e-5) and totals.std().item() == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match="N >= 2"):
        ensemble.measure_statistics([])


@pytest.mark.parametrize("normalised", [False, True])
def test_balanced_gradients_pull_as_the_weights_say(towers, normalised: bool) -> None:
    """Against gradients taken reward by reward."""
    rewards = {**towers(), "red": RednessReward()}
    weights = {**WEIGHTS, "red": -0.3}
    statistics = {"hpsv2": ScoreStatistics(0.2, 0.01)} if normalised else None
    upstream = torch.tensor([0.7, -1.3], dtype=torch.float64)
    images = torch.rand(2, 3, 50, 41, dtype=torch.float64, requires_grad=True)
    plain = RewardEnsemble(rewards, weights, normalise=statistics)(images, PROMPTS)
    ensemble = RewardEnsemble(rewards, weights, normalise=statistics, balance_gradients=True)
    output = ensemble(images, PROMPTS)
    (gradient,) = torch.autograd.grad(output.total @ upstream, images)

    std = {name: statistics[name].std if normalised and name == "hpsv2" else 1.0 for name in weights}
    parts = {
        name: torch.autograd.grad(rewards[name](images, PROMPTS).sum(), images)[0] / std[name]
        for name, weight in weights.items()
        if weight != 0
    }
    common = sum(abs(weights[name]) * part.norm() for name, part in parts.items())
    common = common / sum(abs(weights[name]) for name in parts)
    shares = {name: weights[name] * common * part / part.norm() for name, part in parts.items()}
    torch.testing.assert_close(gradient, sum(shares.values()) * upstream.view(2, 1, 1, 1), rtol=1e-8, atol=1e-12)
    raw = {name: (weights[name] * part).norm().item() for name, part in parts.items()}
    assert max(raw.values()) > 5 * min(raw.values())  # there was something to balance
    assert sum(share.norm() for share in shares.values()).item() == pytest.approx(sum(raw.values()))

    assert torch.equal(output.total, plain.total)
    assert all(torch.equal(output.components[name], score) for name, score in plain.components.items())
    with torch.no_grad():
        torch.testing.assert_close(ensemble(images, PROMPTS).total, plain.total)
    # nothing to balance: the gradient of the weighted sum
    alone = RewardEnsemble({"red": RednessReward()}, {"red": 2.0}, balance_gradients=True)
    (own,) = torch.autograd.grad(alone.total(images, PROMPTS).sum(), images)
    (expected,) = torch.autograd.grad(2 * RednessReward()(images, PROMPTS).sum(), images)
    torch.testing.assert_close(own, expected)


def test_balanced_gradients_reach_half_precision_images_once(folder: Path) -> None:
    class Counted(ClipReward):
        calls = 0

        def encode_pixels(self, pixel_values: Tensor) -> Tensor:
            self.calls += 1
            return super().encode_pixels(pixel_values)

    reward = Counted(str(folder / "clip"))
    images = torch.rand(2, 3, 40, 40).bfloat16().requires_grad_(True)
    ensemble = RewardEnsemble(
        {"clip": reward, "red": RednessReward()}, {"clip": 1.0, "red": 1.0}, balance_gradients=True
    )
    ensemble.total(images, PROMPTS).sum().backward()
    assert images.grad.dtype == torch.bfloat16 and images.grad.any() and reward.calls == 1


def test_a_reward_without_gradients_is_not_trained_on() -> None:
    rewards = {"red": RednessReward(), "size": JpegSizeReward()}
    with pytest.raises(ValueError, match=r"\['size'\] give no gradients and cannot be trained on"):
        RewardEnsemble(rewards, {"red": 1.0, "size": 0.1})
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    output = RewardEnsemble(rewards, {"red": 1.0, "size": 0.0})(images, ["", ""])
    output.total.sum().backward()
    assert images.grad.any() and output.components["size"].min() > 0
    held_out = RewardEnsemble({"red": rewards["red"]}, {"red": 1.0}, {"size": rewards["size"]})
    assert torch.equal(held_out.score_held_out(images, ["", ""])["size"], output.components["size"])


def test_a_gradient_free_ensemble_weighs_it_in_a_search(generator) -> None:
    rewards = {"red": RednessReward(), "size": JpegSizeReward()}
    ensemble = RewardEnsemble(rewards, {"red": 0.0, "size": -1.0}, gradient_free=True)
    prompts = ["a red cube"]
    noise = generator.sample_noise(1, torch.Generator().manual_seed(0))
    found = BestOfN(4)(generator, ensemble.total, prompts, noise, torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = generator.generate(noise, generator.encode(prompts))
        assert -found.rewards < JpegSizeReward()(first, prompts)
        torch.testing.assert_close(-found.rewards, JpegSizeReward()(found.images, prompts))
    with pytest.raises(RuntimeError, match="can be neither trained on nor searched with gradients"):
        ensemble(torch.rand(1, 3, 8, 8, requires_grad=True), prompts)
    with pytest.raises(ValueError, match="gradient_free or balances gradients, not both"):
        RewardEnsemble(rewards, {"red": 0.0, "size": -1.0}, gradient_free=True, balance_gradients=True)


def test_every_option_can_be_written_in_a_config(folder: Path) -> None:
    statistics = ScoreStatistics(0.25, 0.5)
    config = {
        "class_path": "hn.rewards.ensemble.RewardEnsemble",
        "init_args": {
            "rewards": {
                name: {"class_path": path, "init_args": getattr(tiny_rewards, name)(folder / name)}
                for name, path in [
                    ("hpsv2", "hn.rewards.hpsv2.HPSv2Reward"),
                    ("pickscore", "hn.rewards.pickscore.PickScoreReward"),
                    ("aesthetic", "hn.rewards.aesthetic.AestheticReward"),
                ]
            },
            "weights": {"hpsv2": 5, "pickscore": 0.05, "aesthetic": 0},
            "held_out": {"size": {"class_path": "hn.rewards.jpeg_size.JpegSizeReward"}},
            "normalise": {"hpsv2": asdict(statistics)},
            "balance_gradients": True,
        },
    }
    parser = ArgumentParser()
    parser.add_argument("--reward", type=RewardEnsemble)
    ensemble = parser.instantiate(parser.parse_object({"reward": config})).reward
    assert ensemble.weights == {"hpsv2": 5, "pickscore": 0.05, "aesthetic": 0}
    assert ensemble.normalise == {"hpsv2": statistics} and ensemble.balance_gradients
    assert ensemble(torch.rand(2, 3, 32, 32), PROMPTS).total.shape == (2,)


class Returns(Brightness):
    """Returns what a function makes of the scores."""

    def __init__(self, change: Callable) -> None:
        super().__init__()
        self.change = change

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.change(super().score(images, prompts))


WRONG = {
    "a tensor [] of float32": lambda scores: scores.mean(),
    "a tensor [2, 1] of float32": lambda scores: scores[:, None],
    "a tensor [1] of float32": lambda scores: scores[1:],
    "a tensor [2] of int64": lambda scores: scores.long(),
    "int": lambda scores: 1,
    "float": lambda scores: 0.5,
    "NoneType": lambda scores: None,
    "list": lambda scores: scores.tolist(),
}


@pytest.mark.parametrize("found", WRONG)
@pytest.mark.parametrize("options", [{}, {"balance_gradients": True}])
def test_what_is_no_score_is_refused_with_the_name_of_the_reward(images: Tensor, found: str, options: dict) -> None:
    reward = Returns(WRONG[found])
    ensemble = RewardEnsemble({"red": RednessReward(), "mine": reward}, {"red": 1.0, "mine": 1.0}, **options)
    message = rf"The reward mine \(\S*Returns\) returned {re.escape(found)} for 2 images; .* tensor \[2\]"
    with pytest.raises(InputError, match=message):
        ensemble(images, ["", ""])
    with pytest.raises(InputError, match=message):
        RewardEnsemble({"red": RednessReward()}, {"red": 1.0}, {"mine": reward}).score_held_out(images, ["", ""])


@pytest.mark.parametrize("options", [{}, {"balance_gradients": True}])
def test_scores_without_the_gradient_that_training_needs_are_refused(images: Tensor, options: dict) -> None:
    rewards = {"red": RednessReward(), "mine": Returns(lambda scores: scores.detach())}
    ensemble = RewardEnsemble(rewards, {"red": 1.0, "mine": 1.0}, **options)
    with pytest.raises(InputError, match=r"The reward mine \(\S*Returns\) returned scores without a gradient"):
        ensemble(images, ["", ""])
    with torch.no_grad():
        ensemble(images, ["", ""])
    ensemble(images.detach(), ["", ""])
    RewardEnsemble(rewards, {"red": 1.0, "mine": 0.0}, **options)(images, ["", ""])
