import pytest
import torch

from hn.rewards.gradient_balance import balanced_gradient, with_gradient


def test_shares_are_proportional_to_the_weights_and_their_sum_stays() -> None:
    gradients = {"a": torch.zeros(2, 3, 1, 1), "b": torch.zeros(2, 3, 1, 1)}
    gradients["a"][0, 0] = 3.0
    gradients["b"][1, 2] = 0.01
    out = balanced_gradient(gradients, {"a": 1.0, "b": -4.0})
    common = (1 * 3 + 4 * 0.01) / 5
    assert out[0, 0].item() == pytest.approx(common) and out[1, 2].item() == pytest.approx(-4 * common)
    assert out.count_nonzero() == 2


def test_one_reward_is_left_alone_and_nothing_stays_nothing() -> None:
    gradient = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(balanced_gradient({"a": gradient}, {"a": 0.3}), 0.3 * gradient)
    zero = torch.zeros_like(gradient)
    out = balanced_gradient({"a": gradient, "b": zero}, {"a": 1.0, "b": 1.0})
    torch.testing.assert_close(out, 0.5 * gradient)
    assert not balanced_gradient({"a": zero, "b": zero}, {"a": 1.0, "b": 1.0}).any()


def test_half_precision_gradients_are_added_in_full() -> None:
    gradients = {"a": torch.ones(1, 3, 2, 2).bfloat16(), "b": torch.full((1, 3, 2, 2), 1e-3).bfloat16()}
    out = balanced_gradient(gradients, {"a": 1.0, "b": 1e-3})
    assert out.dtype == torch.float32 and (out != out.bfloat16()).all()


def test_the_given_gradient_comes_back_weighed_by_what_is_upstream() -> None:
    images, gradient = torch.rand(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    scores = with_gradient(images, torch.tensor([5.0, 7.0]), gradient)
    assert scores.tolist() == [5, 7]
    (scores * torch.tensor([2.0, -3.0])).sum().backward()
    assert torch.equal(images.grad, gradient * torch.tensor([2.0, -3.0]).view(2, 1, 1, 1))


def test_cannot_be_differentiated_twice() -> None:
    images = torch.rand(1, 3, 2, 2, requires_grad=True)
    scores = with_gradient(images, torch.ones(1), torch.ones(1, 3, 2, 2))
    (gradient,) = torch.autograd.grad((scores**2).sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
