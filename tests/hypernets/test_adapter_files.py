import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hn.hypernets.adapter_files import read_adapter, save_adapter
from hn.hypernets.lora_layers import add_lora
from hn.hypernets.weights import trainable_state_dict

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"


def make_backbone() -> nn.Module:
    block = OrderedDict(conv=nn.Conv2d(4, 4, 3), depth=nn.Conv2d(4, 4, 3, groups=4))
    return nn.Sequential(OrderedDict(block=nn.Sequential(block), proj=nn.Linear(4, 2), skip=nn.Linear(4, 4)))


@pytest.fixture
def backbone() -> nn.Module:
    return make_backbone()


@pytest.fixture
def saved(backbone: nn.Module, tmp_path: Path) -> Path:
    config = add_lora(backbone, rank=3, alpha=12, target_modules=["conv", "depth", "proj"])
    save_adapter(tmp_path, trainable_state_dict(backbone), config)
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def as_bin(folder: Path, change: Callable[[dict[str, Tensor]], object] = lambda state: state) -> None:
    torch.save(change(load_file(folder / WEIGHTS)), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def test_files_are_in_pefts_layout_and_come_back_exactly(backbone: nn.Module, saved: Path) -> None:
    keys = {f"{PREFIX}{layer}.lora_{ab}.weight" for layer in ("block.conv", "block.depth", "proj") for ab in "AB"}
    assert set(load_file(saved / WEIGHTS)) == keys
    adapter, own = read_adapter(saved), trainable_state_dict(backbone)
    assert (adapter.config["peft_type"], adapter.rank, adapter.alpha) == ("LORA", 3, 12)
    assert sorted(adapter.config["target_modules"]) == adapter.layers == ["block.conv", "block.depth", "proj"]
    assert adapter.state.keys() == own.keys()
    assert all(torch.equal(adapter.state[name], own[name]) for name in own)


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("binary", [False, True])
def test_every_published_layout_is_read(saved: Path, prefix: str, binary: bool) -> None:
    expected = read_adapter(saved).state
    rename = {key: prefix + key.removeprefix(PREFIX) for key in load_file(saved / WEIGHTS)}
    if binary:
        as_bin(saved, lambda state: {rename[key]: tensor for key, tensor in state.items()})
    else:
        rewrite(saved, lambda state: [state.__setitem__(rename[key], state.pop(key)) for key in list(state)])
    state = read_adapter(saved).state
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


def test_the_targets_are_the_files_layers(saved: Path) -> None:
    backbone = make_backbone()
    add_lora(backbone, rank=3, alpha=12, target_modules=read_adapter(saved).target_modules(make_backbone()))
    assert trainable_state_dict(backbone).keys() == read_adapter(saved).state.keys()


def test_without_a_config_alpha_has_to_be_stated(saved: Path) -> None:
    (saved / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"no adapter_config.json to say alpha, and the weights of rank 3 do not show"):
        read_adapter(saved)
    adapter = read_adapter(saved, alpha=6)
    assert (adapter.rank, adapter.alpha) == (3, 6)


@pytest.mark.parametrize("stated", [{"alpha": 6}, {"rank": 4}])
def test_what_is_stated_must_not_contradict_the_files(saved: Path, stated: dict[str, float]) -> None:
    asked = {"rank": 3, "alpha": 12, **stated}
    expected = f"rank 3 and alpha 12, but rank {asked['rank']} and alpha {asked['alpha']} are asked for"
    with pytest.raises(ValueError, match=expected):
        read_adapter(saved, **stated)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict.clear, "is empty"),
        (lambda s: s.update({"proj.weight": torch.zeros(2, 2)}), r"no LoRA weight in PEFT's layout: 'proj.weight'"),
        (lambda s: s.update({f"{PREFIX}proj.lora_A.weight": torch.zeros(3)}), r"proj.lora_A.weight' \[3\]"),
        (lambda s: s.pop(f"{PREFIX}proj.lora_B.weight"), "does not have A and B of every layer: proj"),
        (
            lambda s: s.update({f"{PREFIX}proj.lora_A.weight": torch.zeros(2, 4)}),
            r"different ranks.*: 2 \(proj\), 3 \(",
        ),
        (
            lambda s: [s.update({k: t[:2]}) for k, t in s.items() if "_A" in k],
            "says rank 3, but the weights have rank 2",
        ),
    ],
)
def test_broken_weights_are_refused(saved: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(ValueError, match=message):
        read_adapter(saved)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "more than plain LoRA, which is not supported: use_dora: True"),
        ({"rank_pattern": {"proj": 8}, "bias": "all"}, r"rank_pattern: \{'proj': 8\}, bias: all"),
        ({"peft_type": "LOKR"}, "peft_type: LOKR"),
    ],
)
def test_other_adapters_are_refused(saved: Path, config: dict[str, object], message: str) -> None:
    edit_config(saved, **config)
    with pytest.raises(ValueError, match=message):
        read_adapter(saved)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a file's code ran",))


@pytest.mark.parametrize(
    ("content", "message"), [(lambda state: Trap(), "would run code"), (list, "holds no tensors by name")]
)
def test_objects_are_not_unpickled(saved: Path, content: Callable, message: str) -> None:
    as_bin(saved, content)
    with pytest.raises(ValueError, match=message):
        read_adapter(saved)


def test_a_folder_without_weights_is_named(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_model.safetensors or adapter_model.bin"):
        read_adapter(saved)


def test_layers_that_another_model_does_not_have_are_named(saved: Path) -> None:
    some = nn.Sequential(OrderedDict(proj=nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"of its 3 layers 1 is .* of Sequential; unknown are block.conv, block.depth"):
        read_adapter(saved).target_modules(some)
    with pytest.raises(ValueError, match=r"another model: of its 3 layers none is a Linear or Conv2d of Sequential"):
        read_adapter(saved).target_modules(nn.Sequential(nn.Linear(4, 2)))


def test_layers_that_only_the_config_names_are_missing(saved: Path) -> None:
    edit_config(saved, target_modules=["block.conv", "depth", "proj", "skip"])
    with pytest.raises(ValueError, match=r"lacks weights of layers that adapter_config.json names: skip"):
        read_adapter(saved).target_modules(make_backbone())
