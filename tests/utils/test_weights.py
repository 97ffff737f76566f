from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from hn.utils.weights import assign_state_dict, load_transformers_model, read_state_dict


class Trap:
    """Would run code when a pickle of it is loaded."""

    def __reduce__(self):
        return print, ("loaded",)


def test_both_formats_and_a_nested_state_dict(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(3), "b": torch.arange(2)}
    save_file(tensors, tmp_path / "flat.safetensors")
    torch.save(tensors, tmp_path / "flat.pt")
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "nested.pt")
    for name in ("flat.safetensors", "flat.pt", "old.pt", "nested.pt"):
        read = read_state_dict(tmp_path / name)
        assert read.keys() == tensors.keys() and all(torch.equal(read[key], tensors[key]) for key in tensors)
        with torch.device("meta"):
            shapes = read_state_dict(tmp_path / name)
        assert all(tensor.is_meta for tensor in shapes.values())
        assert {k: (v.shape, v.dtype) for k, v in shapes.items()} == {k: (v.shape, v.dtype) for k, v in tensors.items()}


def test_code_damage_and_other_contents_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"state_dict": {"a": torch.rand(3)}, "trap": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match=r"trap.pt cannot be read.*a pickle that would run code"):
        read_state_dict(tmp_path / "trap.pt")
    assert "loaded" not in capsys.readouterr().out
    for name in ("damaged.pt", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read_state_dict(tmp_path / name)
    torch.save([torch.rand(3)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list.pt holds no tensors by name"):
        read_state_dict(tmp_path / "list.pt")


def test_assigned_tensors_are_those_of_the_file() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 3)
    weights = {"weight": torch.rand(3, 2).half(), "bias": torch.rand(3).half()}
    assign_state_dict(model, weights, "file.pt", "a layer")
    assert model.weight.data_ptr() == weights["weight"].data_ptr() and model.bias.dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, r"file.pt does not hold the weights of a layer: 1 missing \(bias\)\.$"),
        ({"scale": torch.ones(1)}, r"1 unknown \(scale\)"),
        ({"weight": torch.ones(3, 3)}, r"1 of another shape \(weight \[3, 3\] instead of \[3, 2\]\)"),
        ({str(i): torch.ones(1) for i in range(9)}, r"9 unknown \(0, 1, 2, 3, \.\.\.\)"),
    ],
)
def test_other_names_and_shapes_are_refused(change: dict[str, torch.Tensor | None], message: str) -> None:
    weights = {**nn.Linear(2, 3).state_dict(), **change}
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        assign_state_dict(nn.Linear(2, 3), weights, "file.pt", "a layer")


def test_a_transformers_model_without_some_weights_is_refused(tiny_clip_folder: Path, tmp_path: Path) -> None:
    model = load_transformers_model(CLIPModel, str(tiny_clip_folder), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "visual_projection.weight"}
    model.config.save_pretrained(tmp_path)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights of a CLIPModel: 1 missing \(visual_projection.weight\)"):
        load_transformers_model(CLIPModel, str(tmp_path))
    config = CLIPVisionConfig.from_pretrained(tiny_clip_folder, projection_dim=7)
    with pytest.raises(ValueError, match=r"1 of another shape \(visual_projection.weight\)"):
        load_transformers_model(CLIPVisionModelWithProjection, str(tiny_clip_folder), config=config)


def test_a_model_without_weights_is_made_of_its_configuration_alone(tiny_clip_folder: Path, tmp_path: Path) -> None:
    loaded = load_transformers_model(CLIPModel, str(tiny_clip_folder), dtype=torch.bfloat16)
    loaded.config.save_pretrained(tmp_path)
    with torch.device("meta"):
        on_meta = load_transformers_model(CLIPModel, str(tmp_path), dtype=torch.bfloat16)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in loaded.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in on_meta.state_dict().items()} == expected
    BertConfig().save_pretrained(tmp_path)
    with torch.device("meta"), pytest.raises(ValueError, match="not describe a CLIPModel: its model_type is 'bert'"):
        load_transformers_model(CLIPModel, str(tmp_path))
