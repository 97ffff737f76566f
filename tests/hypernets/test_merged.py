"""f against a plain network into whose weights the LoRA was merged: another way to compute the same, without PEFT; and
`LoraHypernet.merged`, which keeps grouped convolutions apart."""

import copy
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from hn.generators import Conditioning
from hn.hypernets import LoraHypernet
from hn.hypernets.lora import LowRankBranch
from hn.utils.layers import has_compiler
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


@pytest.fixture(params=GENERATORS)
def trained(request: pytest.FixtureRequest) -> tuple[LoraHypernet, Tensor, Conditioning]:
    """A hypernetwork with random LoRA, and what to call it with."""
    return (train(LoraHypernet(3, 15).build(GENERATORS[request.param]())), *published.inputs_of(request.param))


@torch.no_grad()
def train(hypernet: LoraHypernet) -> LoraHypernet:
    for parameter in hypernet.parameters():
        if parameter.requires_grad:
            parameter.normal_(std=0.05)
    return hypernet


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize(("rank", "alpha"), [(1, 1), (3, 15), (8, 16)])
@torch.no_grad()
def test_f_is_that_of_the_merged_network(name: str, rank: int, alpha: float) -> None:
    generator, (noise, conditioning) = GENERATORS[name](), published.inputs_of(name)
    hypernet = LoraHypernet(rank, alpha).build(generator)
    assert not hypernet(noise, conditioning).any()
    f = train(hypernet)(noise, conditioning)
    expected = generator.first_step(merged(hypernet), noise, conditioning)
    assert expected.std() > 1e-3
    torch.testing.assert_close(f, expected, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_the_merged_hypernetwork_has_the_same_f(trained: tuple[LoraHypernet, Tensor, Conditioning]) -> None:
    hypernet, noise, conditioning = trained
    f = hypernet(noise, conditioning)
    assert f.std() > 1e-3
    torch.testing.assert_close(hypernet.merged()(noise, conditioning), f, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_merging_leaves_generator_and_hypernetwork_alone(trained: tuple[LoraHypernet, Tensor, Conditioning]) -> None:
    hypernet = trained[0]
    generator = hypernet.generator
    modules = {"generator": generator, "hypernet": hypernet}
    before = {of: {k: v.clone() for k, v in m.state_dict().items()} for of, m in modules.items()}
    gradients = [parameter.requires_grad for parameter in hypernet.parameters()]
    hypernet.merged()
    for of, module in modules.items():
        after = module.state_dict()
        assert after.keys() == before[of].keys() and all(torch.equal(after[k], v) for k, v in before[of].items())
    assert [parameter.requires_grad for parameter in hypernet.parameters()] == gradients


def test_the_merged_one_has_weights_of_its_own_where_there_is_lora_alone(
    trained: tuple[LoraHypernet, Tensor, Conditioning],
) -> None:
    hypernet = trained[0]
    net = hypernet.merged()
    taken = {t.data_ptr() for t in (*hypernet.generator.parameters(), *hypernet.parameters())}
    own = {name for name, parameter in net.named_parameters() if parameter.data_ptr() not in taken}
    adapted = [name for name, m in hypernet.named_modules() if isinstance(m, LoraLayer | LowRankBranch)]
    last = f"backbone.{hypernet.last_layer}"
    assert own == {f"{name}.layer.weight" if name == last else f"{name}.weight" for name in adapted}
    assert not any(isinstance(module, LoraLayer | LowRankBranch) for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_in_half_precision_merged_weights_are_rounded_once(dtype: torch.dtype) -> None:
    """Each weight is the nearest to W + B A, computed in float64; the last layer stays in float32."""
    generator = GENERATORS["sd_turbo"]().to(dtype)
    hypernet = train(LoraHypernet(2).build(generator))
    net, weights = hypernet.merged(), hypernet.trainable_state_dict()
    names = [key.removesuffix(".lora_A.default.weight") for key in weights if "lora_A" in key]
    assert len(names) > 10
    for name in names:
        a, b = (weights[f"{name}.lora_{ab}.default.weight"].double() for ab in "AB")
        change = 2 * torch.einsum("or,ri...->oi...", b.flatten(1), a)
        layer = net.get_submodule(name)
        if name.removeprefix("backbone.") == hypernet.last_layer:
            assert layer.layer.weight.dtype == torch.float32
            torch.testing.assert_close(layer.layer.weight.double(), change, atol=1e-8, rtol=1e-6)
        else:
            exact = hypernet.get_submodule(name).base_layer.weight.double() + change
            off = (layer.weight.double() - exact).abs()
            assert layer.weight.dtype == dtype
            assert (off <= exact.abs() * torch.finfo(dtype).eps * 0.501 + 1e-7).all()
    noise, conditioning = published.inputs_of("sd_turbo")
    conditioning = {k: v.to(dtype) for k, v in conditioning.items()}
    f, same = hypernet(noise, conditioning), net(noise, conditioning)
    assert same.dtype == noise.dtype
    assert (f - same).norm() < 20 * torch.finfo(dtype).eps * f.norm()


def test_a_merged_hypernetwork_modulates_alike_and_is_neither_trained_nor_saved(
    trained: tuple[LoraHypernet, Tensor, Conditioning], tmp_path: Path
) -> None:
    hypernet, noise, conditioning = trained
    net = hypernet.merged()
    with torch.no_grad():
        torch.testing.assert_close(net.modulate(noise, conditioning), hypernet.modulate(noise, conditioning))
    assert net.eval() is net and not net.training
    for call in (net.train, net.requires_grad_):
        with pytest.raises(RuntimeError, match="cannot be trained; the LoraHypernet that it was made of can"):
            call()
    with pytest.raises(RuntimeError, match="cannot be saved; the LoraHypernet"):
        net.save_pretrained(tmp_path / "net")
    with pytest.raises(RuntimeError, match="not bound to a generator yet"):
        LoraHypernet().merged()


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_a_compiled_hypernetwork_is_merged_into_a_compiled_one() -> None:
    generator = GENERATORS["sd_turbo"]()
    for compile, asked, expected in ((False, None, False), (True, None, True), (False, True, True)):
        net = LoraHypernet(2, compile=compile).build(generator).merged(asked)
        assert (net.backbone._compiled_call_impl is not None) == expected
