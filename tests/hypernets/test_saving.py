import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hn.generators import DiffusersGenerator
from hn.hypernets import Hypernet, LoraFinetune, LoraHypernet
from hn.utils.digest import SAMPLES, weights_digest

MakeGenerator = Callable[..., DiffusersGenerator]


@pytest.fixture
def retrained(make_generator: MakeGenerator) -> DiffusersGenerator:
    """Of the same name and class, but one of its layers has other weights."""
    generator = make_generator()
    with torch.no_grad():
        generator.backbone.mid_block.resnets[0].conv1.weight.mul_(1.01)
    return generator


def shares_a_digest(module: nn.Module, other: nn.Module) -> bool:
    return bool(weights_digest(module).items() & weights_digest(other).items())


@pytest.mark.parametrize("used", ["float64", "float16", "bfloat16"])
def test_the_same_file_is_recognised_in_every_data_type(
    make_generator: MakeGenerator, generator: DiffusersGenerator, used: str
) -> None:
    assert shares_a_digest(generator.backbone, make_generator(dtype=used).backbone)


@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("used", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_files_are_recognised_in_every_data_type(kept: torch.dtype, used: torch.dtype) -> None:
    weights = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)).to(kept)
    recorded = weights_digest(weights)
    assert recorded.items() & weights_digest(weights.to(used)).items()


def test_memory_layout_and_names_do_not_count() -> None:
    convolution = nn.Conv2d(8, 16, 3)
    recorded = weights_digest(convolution)
    assert weights_digest(nn.Sequential(convolution)) == recorded
    assert weights_digest(convolution.to(memory_format=torch.channels_last)) == recorded


def test_every_parameter_counts(generator: DiffusersGenerator, make_generator: MakeGenerator) -> None:
    backbone = make_generator().backbone
    assert weights_digest(backbone) == weights_digest(generator.backbone)
    for parameter in (*list(backbone.parameters())[:5], *list(backbone.parameters())[-5:]):
        before = parameter.detach().clone()
        parameter.data.add_(0.01)
        assert not shares_a_digest(backbone, generator.backbone)
        parameter.data.copy_(before)


def test_parameters_of_any_size_have_a_digest() -> None:
    module = nn.ParameterList([torch.ones(()), torch.ones(0, 3), torch.ones(SAMPLES - 1), torch.ones(SAMPLES + 1, 1)])
    module.counter = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    assert weights_digest(module).keys() == {"float16", "bfloat16"}
    assert weights_digest(nn.Identity()).keys() == {"float16", "bfloat16"}


def test_a_hypernetwork_of_other_base_weights_is_refused(
    generator: DiffusersGenerator, retrained: DiffusersGenerator, tmp_path: Path
) -> None:
    LoraHypernet(rank=4).build(generator).save_pretrained(tmp_path)
    Hypernet.from_pretrained(tmp_path, generator)
    with pytest.raises(ValueError, match="was trained on other base weights .* or train it again on this one"):
        Hypernet.from_pretrained(tmp_path, retrained)
    with pytest.raises(ValueError, match="was trained on other base weights"):
        LoraHypernet.from_published(tmp_path, retrained, last_layer_rule="lora_branch_only")


def test_a_finetune_of_other_base_weights_is_refused(
    generator: DiffusersGenerator, retrained: DiffusersGenerator, tmp_path: Path
) -> None:
    finetune = LoraFinetune(rank=4).build(generator)
    finetune.save_pretrained(tmp_path)
    LoraFinetune.from_pretrained(tmp_path, generator)
    with pytest.raises(ValueError, match="was trained on other base weights"):
        LoraFinetune.from_pretrained(tmp_path, retrained)


def test_files_of_earlier_versions_load_as_before(
    generator: DiffusersGenerator, retrained: DiffusersGenerator, tmp_path: Path
) -> None:
    LoraHypernet(rank=4).build(generator).save_pretrained(tmp_path / "hypernet")
    path = tmp_path / "hypernet" / "hypernet_config.json"
    config = json.loads(path.read_text())
    del config["generator"]["digest"]
    path.write_text(json.dumps(config))
    Hypernet.from_pretrained(tmp_path / "hypernet", retrained)

    finetune = LoraFinetune(rank=4).build(generator)
    finetune.save_pretrained(tmp_path / "finetune")
    (tmp_path / "finetune" / "finetune_config.json").unlink()
    LoraFinetune.from_pretrained(tmp_path / "finetune", retrained)


def test_the_digest_is_cheap() -> None:
    # The samples of a tensor take as long whatever its size: 1200 views of one stand for a large backbone.
    big = torch.empty(2048, 1280, dtype=torch.float16).fill_(0.5)
    module = nn.ParameterList([nn.Parameter(big.clone() if i == 0 else big, requires_grad=False) for i in range(1200)])
    allocated = []

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        """Notes how many values each operation makes, views apart."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and not made._is_view() and function is not torch.ops.aten.detach.default:
                allocated.append(made.numel())
            return made

    with Largest():
        weights_digest(module)
    assert max(allocated) <= 1200 * SAMPLES
