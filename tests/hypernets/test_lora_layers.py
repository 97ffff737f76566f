from collections import OrderedDict

import pytest
import torch
from torch import nn

from hn.hypernets.lora_layers import Adapted, GroupedConvLora, add_lora
from hn.hypernets.weights import trainable_state_dict


class Block(nn.Module):
    """A depthwise and a pointwise convolution and a linear layer, as in SANA's feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.conv_point = nn.Conv2d(8, 8, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.proj = nn.Linear(8, 8)


@pytest.fixture
def backbone() -> nn.Module:
    return nn.Sequential(OrderedDict(first=Block(), second=Block(), conv_depth=nn.Conv2d(8, 8, 3)))


def adapted(module: nn.Module) -> set[str]:
    return {name for name, layer in module.named_modules() if isinstance(layer, Adapted)}


@pytest.mark.parametrize("rank", [3, 8])  # 8 is one that PEFT could divide by the groups
def test_every_linear_and_convolution_is_adapted(backbone: nn.Module, rank: int) -> None:
    layers = {f"{block}.{name}" for block in ("first", "second") for name in ("conv_depth", "conv_point", "proj")}
    config = add_lora(backbone, rank=rank, alpha=3 * rank)
    assert adapted(backbone) == config.target_modules == {*layers, "conv_depth"}
    assert (config.r, config.lora_alpha) == (rank, 3 * rank)
    assert all(layer.scaling == {"default": 3.0} for layer in backbone.modules() if isinstance(layer, Adapted))


def test_grouped_convolutions_get_a_dense_lora_with_pefts_names(backbone: nn.Module) -> None:
    frozen = {id(p) for p in backbone.parameters()}
    add_lora(backbone, rank=3, alpha=6, target_modules=["first.conv_depth", "first.proj", "conv_depth"])
    shapes = {name: tuple(tensor.shape) for name, tensor in trainable_state_dict(backbone).items() if "first" in name}
    assert shapes == {
        "first.conv_depth.lora_A.default.weight": (3, 8, 3, 3),
        "first.conv_depth.lora_B.default.weight": (8, 3, 1, 1),
        "first.proj.lora_A.default.weight": (3, 8),
        "first.proj.lora_B.default.weight": (8, 3),
    }
    grouped = {name for name, layer in backbone.named_modules() if isinstance(layer, GroupedConvLora)}
    assert grouped == {"first.conv_depth", "second.conv_depth"}  # the layer of the same name outside is not grouped
    assert {id(p) for p in backbone.parameters() if not p.requires_grad} == frozen


def test_only_grouped_convolutions_can_be_adapted(backbone: nn.Module) -> None:
    add_lora(backbone, rank=3, alpha=6, target_modules=r".+\.conv_depth")
    assert adapted(backbone) == {"first.conv_depth", "second.conv_depth"}
    state = trainable_state_dict(backbone)
    assert len(state) == 4 and all("conv_depth.lora_" in name for name in state)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["proj"], {"first.proj", "second.proj"}),
        (["second.proj", "conv_point"], {"second.proj", "first.conv_point", "second.conv_point"}),
        (r"first\..*", {"first.conv_depth", "first.conv_point", "first.proj"}),
    ],
)
def test_layers_can_be_chosen(backbone: nn.Module, targets: list[str] | str, expected: set[str]) -> None:
    add_lora(backbone, rank=8, alpha=8, target_modules=targets)
    assert adapted(backbone) == expected


def test_only_lora_weights_are_trained_and_the_output_is_unchanged_at_first() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    x = torch.randn(2, 4)
    before = module(x)
    add_lora(module, rank=2, alpha=4)
    assert torch.equal(module(x), before)
    state = trainable_state_dict(module)
    assert set(state) == {f"{i}.lora_{ab}.default.weight" for i in (0, 1) for ab in "AB"}
    assert all((tensor == 0).all() == name.endswith("lora_B.default.weight") for name, tensor in state.items())


def test_a_starts_as_a_gaussian_of_standard_deviation_one_over_the_rank() -> None:
    module = nn.Sequential(nn.Linear(4000, 1))
    add_lora(module, rank=4, alpha=8)
    a = module[0].lora_A["default"].weight
    assert a.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert a.abs().max() > 3 / 4  # beyond any uniform distribution of that deviation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"target_modules": ["proj", "porj"]}, "No Linear or Conv2d of Sequential is called 'porj'"),
        ({"target_modules": "third.*"}, "'third.*' fits no Linear or Conv2d"),
    ],
)
def test_bad_options_are_refused(backbone: nn.Module, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_lora(backbone, **{"rank": 8, "alpha": 8, **options})
