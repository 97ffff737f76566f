import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
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
        (
            {"use_dora": True},
            "config.json asks for more than plain LoRA, which is not supported: use_dora: True",
        ),
        ({"rank_pattern": {"proj": 8}, "bias": "all"}, r"bias: all, rank_pattern: \{'proj': 8\}"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: olora"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out: True"),
        ({"layers_to_transform": 0}, "layers_to_transform: 0"),
        ({"qalora_group_size": 8}, "qalora_group_size: 8"),
        ({"of_a_later_peft": {"a": 1}}, r"of_a_later_peft: \{'a': 1\}"),
        ({"r": "3"}, "adapter_config.json: 'r' has to be a whole number, but is '3'"),
        ({"lora_alpha": "64"}, "adapter_config.json: 'lora_alpha' has to be a number, but is '64'"),
        ({"lora_alpha": None}, "adapter_config.json: 'lora_alpha' has to be a number, but is None"),
        ({"lora_alpha": float("nan")}, "adapter_config.json: 'lora_alpha' has to be a number, but is nan"),
        ({"target_modules": [1]}, r"adapter_config.json: 'target_modules' has to be a string or a list \(a string"),
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
        read_adapter(saved).fitted_to(some)
    with pytest.raises(ValueError, match=r"another model: of its 3 layers none is a Linear or Conv2d of Sequential"):
        read_adapter(saved).fitted_to(nn.Sequential(nn.Linear(4, 2)))


def test_layers_that_only_the_config_names_are_missing(saved: Path) -> None:
    edit_config(saved, target_modules=["block.conv", "depth", "proj", "skip"])
    with pytest.raises(ValueError, match=r"lacks weights of layers that adapter_config.json names: skip"):
        read_adapter(saved).target_modules(make_backbone())


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "orthogonal"])
def test_options_without_effect_are_taken(saved: Path, init: object) -> None:
    own = dataclasses.asdict(LoraConfig()) | {"peft_type": "LORA", "runtime_config": None}
    more = {"init_lora_weights": init, "lora_dropout": 0.1, "of_a_later_peft": None, "another_one": False, "third": []}
    edit_config(saved, **{**own, "r": 3, "lora_alpha": 12, "target_modules": ["conv", "depth", "proj"], **more})
    assert read_adapter(saved).alpha == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "line 1: not JSON"), ('{"r": 3,\n "lora', "line 2: not JSON"), ("[]", "holds a JSON array, not an object")],
)
def test_a_damaged_config_is_named(saved: Path, text: str, message: str) -> None:
    (saved / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=f"adapter_config.json.*{message}.* Download it again"):
        read_adapter(saved)


@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_lora_weights.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize(
    "words",
    [
        "_orig_mod.", "module.", "unet.", "transformer.", "base_model.model._orig_mod.", "_orig_mod.base_model.model.",
        "module.base_model.model.", "base_model.model.module._orig_mod.unet.", "base_model.model.base_model.model.",
    ],
)  # fmt: skip
def test_words_before_the_names_of_layers_are_taken_off(saved: Path, words: str, name: str) -> None:
    expected = read_adapter(saved)
    state = {words + key.removeprefix(PREFIX): tensor for key, tensor in load_file(saved / WEIGHTS).items()}
    (saved / WEIGHTS).unlink()
    (torch.save if name.endswith(".bin") else save_file)(state, saved / name)
    adapter = read_adapter(saved).fitted_to(make_backbone())
    assert adapter.path == saved / name and adapter.state.keys() == expected.state.keys()
    assert all(torch.equal(adapter.state[key], tensor) for key, tensor in expected.state.items())
    assert adapter.target_modules(make_backbone()) == expected.target_modules(make_backbone())


def test_names_of_compiled_blocks_and_of_pefts_adapter_are_read(saved: Path) -> None:
    expected = read_adapter(saved).state
    state = load_file(saved / WEIGHTS)
    save_file(
        {
            key.replace("block.", "block._orig_mod.").replace("lora_A.", "lora_A.default."): tensor
            for key, tensor in state.items()
        },
        saved / WEIGHTS,
    )
    assert read_adapter(saved).fitted_to(make_backbone()).state.keys() == expected.keys()


def test_a_layer_is_not_read_twice(saved: Path) -> None:
    rewrite(saved, lambda s: s.update({key.replace(PREFIX, f"{PREFIX}unet."): t.clone() for key, t in list(s.items())}))
    with pytest.raises(ValueError, match=r"several LoRA for the same layer, under other names: block.conv, block.dep"):
        read_adapter(saved).fitted_to(make_backbone())
    rewrite(saved, lambda s: s.update({f"{PREFIX}proj.lora_A.default.weight": torch.zeros(3, 4)}))
    with pytest.raises(ValueError, match="has a LoRA weight twice: 'base_model.model.proj.lora_A"):
        read_adapter(saved)


def test_a_wrapped_adapter_of_another_model_is_said_to_be_that(saved: Path) -> None:
    rewrite(saved, lambda s: [s.__setitem__(k.replace(PREFIX, "text_encoder."), s.pop(k)) for k in list(s)])
    with pytest.raises(ValueError, match=r"of its 3 layers none .* unknown are text_encoder.block.conv"):
        read_adapter(saved).fitted_to(make_backbone())


def test_options_in_the_file_of_weights_itself_count(saved: Path) -> None:
    (saved / "adapter_config.json").unlink()
    state = {f"unet.{key.removeprefix(PREFIX)}": tensor for key, tensor in load_file(saved / WEIGHTS).items()}
    (saved / WEIGHTS).unlink()

    def write(**options: object) -> None:
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in options.items()})}
        save_file(state, saved / "pytorch_lora_weights.safetensors", metadata)

    write(r=3, lora_alpha=6, target_modules=["conv", "depth", "proj"])
    assert read_adapter(saved).fitted_to(make_backbone()).alpha == 6
    write(r=3, lora_alpha=6, use_dora=True)
    with pytest.raises(ValueError, match="pytorch_lora_weights.safetensors asks for more than plain LoRA.*use_dora"):
        read_adapter(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(saved: Path, value: float) -> None:
    rewrite(saved, lambda state: state[f"{PREFIX}proj.lora_B.weight"].view(-1)[0].fill_(value))
    message = r"safetensors has values that are NaN or infinite, in 1 of 6 weights \(base_model.model.proj.lora_B"
    with pytest.raises(ValueError, match=message):
        read_adapter(saved)
