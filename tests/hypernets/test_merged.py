"""f against a plain network into whose weights the LoRA was merged: another way to compute the same, without PEFT."""

import copy

import pytest
import torch
from torch import Tensor, nn

from hn.hypernets import LoraHypernet
from tests import published

GENERATORS = {"sana": published.sana, "flux": published.flux, "sd_turbo": published.sd_turbo}


def merged(hypernet: LoraHypernet) -> nn.Module:
    """A copy of the generator's backbone with W + alpha / rank * B A for W, and that alone in the last layer."""
    generator, weights = hypernet.generator, hypernet.trainable_state_dict()
    backbone = copy.deepcopy(generator.backbone)
    for name in [key.removesuffix(".lora_A.default.weight") for key in weights if "lora_A" in key]:
        a, b = (weights[f"{name}.lora_{ab}.default.weight"] for ab in "AB")
        change = hypernet.alpha / hypernet.rank * torch.einsum("or,ri...->oi...", b.flatten(1), a)
        name = name.removeprefix("backbone.")
        layer = backbone.get_submodule(name)
        if name == generator.last_layer:
            layer.weight.copy_(change)
            layer.bias.zero_()
        elif getattr(layer, "groups", 1) > 1:
            layer.weight = nn.Parameter(dense(layer) + change)
            layer.groups = 1
        else:
            layer.weight += change
    return backbone


def dense(layer: nn.Conv2d) -> Tensor:
    """Weight of the ungrouped convolution that does the same."""
    blocks = layer.weight.unflatten(0, (layer.groups, -1))
    rows = [torch.block_diag(*(block[:, :, i, j] for block in blocks)) for i in range(3) for j in range(3)]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize(("rank", "alpha"), [(1, 1), (3, 15), (8, 16)])
@torch.no_grad()
def test_f_is_that_of_the_merged_network(name: str, rank: int, alpha: float) -> None:
    generator, (noise, conditioning) = GENERATORS[name](), published.inputs_of(name)
    hypernet = LoraHypernet(rank, alpha).build(generator)
    assert not hypernet(noise, conditioning).any()
    for parameter in hypernet.parameters():
        if parameter.requires_grad:
            parameter.normal_(std=0.05)
    f = hypernet(noise, conditioning)
    expected = generator.first_step(merged(hypernet), noise, conditioning)
    assert expected.std() > 1e-3
    torch.testing.assert_close(f, expected, atol=2e-6, rtol=1e-5)
