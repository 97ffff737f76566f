import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.checkpoint import checkpoint

from hn.hypernets.lora_layers import GroupedConvLora
from hn.hypernets.weights import trainable_state_dict

RANK, ALPHA = 3, 12  # 3 divides neither 6 channels' groups nor 2


def make_layer(dtype: torch.dtype = torch.float32, **options) -> GroupedConvLora:
    base = nn.Conv2d(6, 6, 3, **{"padding": 1, "groups": 6, **options}).to(dtype).requires_grad_(False)
    return GroupedConvLora(base, RANK, ALPHA, "default")


def perturbed(layer: GroupedConvLora) -> GroupedConvLora:
    nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    return layer


def weights(layer: GroupedConvLora) -> tuple[Tensor, Tensor]:
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"padding": "same"}, {"bias": False}]
)
def test_the_output_is_the_base_and_a_dense_lora(options: dict) -> None:
    layer = make_layer(**options)
    base, x = layer.base_layer, torch.randn(2, 6, 5, 7)
    assert torch.equal(layer(x), base(x))
    a, b = weights(perturbed(layer))
    assert a.shape == (RANK, 6, 3, 3) and b.shape == (6, RANK, 1, 1)
    lora = conv2d(conv2d(x, a, None, base.stride, base.padding, base.dilation), b)
    torch.testing.assert_close(layer(x), base(x) + 4 * lora)


def test_the_base_is_shared_and_only_the_lora_is_trained() -> None:
    base = nn.Conv2d(6, 6, 3, groups=6).requires_grad_(False)
    layer = GroupedConvLora(base, RANK, ALPHA, "default")
    assert layer.base_layer is base
    assert list(trainable_state_dict(layer)) == ["lora_A.default.weight", "lora_B.default.weight"]


def test_a_starts_as_a_gaussian_of_standard_deviation_one_over_the_rank() -> None:
    layer = GroupedConvLora(nn.Conv2d(400, 400, 3, groups=400), 4, 8, "default")
    a, b = weights(layer)
    assert a.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert a.abs().max() > 3 / 4 and (b == 0).all()


def test_gradients_equal_finite_differences() -> None:
    layer = perturbed(make_layer(torch.float64, stride=2))
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    a, b = weights(layer)
    assert a.dtype == b.dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x, a, b: layer(x).square(), (x, a, b))


@pytest.mark.exact
def test_checkpointed_gradients_equal_plain_ones() -> None:
    layer, x = perturbed(make_layer()), torch.randn(2, 6, 5, 5, requires_grad=True)
    inputs = (x, *weights(layer))
    plain = torch.autograd.grad(layer(x).square().sum(), inputs)
    recomputed = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), inputs)
    assert all(torch.equal(p, r) for p, r in zip(plain, recomputed, strict=True))
    assert all(gradient.norm() > 0 for gradient in plain)


def test_half_precision_bases_get_full_precision_lora() -> None:
    layer = perturbed(make_layer(torch.bfloat16))
    y = layer(torch.randn(2, 6, 5, 5, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and {w.dtype for w in weights(layer)} == {torch.float32}
