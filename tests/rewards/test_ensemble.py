from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hn.rewards import RednessReward, Reward, RewardEnsemble


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
