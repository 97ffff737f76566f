import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BlipVisionConfig

from hn.rewards.blip import BlipScorer
from hn.rewards.blip_checkpoint import (
    POSITION_IDS,
    load_scorer,
    published_state_dict,
    read_config,
    read_state_dict,
    text_config,
    vision_config,
)
from tests import tiny_rewards
from tests.exactness import assert_close_to_rounding

PUBLISHED = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30524,
    "encoder_width": 768,
    "add_cross_attention": True,
}

Change = Callable[[dict[str, Tensor]], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image_reward")
    tiny_rewards.image_reward(folder)
    return folder


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """A copy of the checkpoint whose weights went through a function, that may change them or give other ones."""

    def change(function: Change) -> Path:
        state = read_state_dict(folder / "ImageReward.pt")
        torch.save(function(state) or state, tmp_path / "ImageReward.pt")
        (tmp_path / "med_config.json").write_text((folder / "med_config.json").read_text())
        return tmp_path

    return change


def load(folder: Path, **options) -> BlipScorer:
    return load_scorer(folder, read_config(folder / "med_config.json"), **options)


def test_the_full_model_has_exactly_the_published_names_and_shapes(fixtures: Path) -> None:
    listed = json.loads((fixtures / "imagereward" / "full_keys.json").read_text())
    expected = {}
    for name, shape in listed["keys"].items():
        count = next((n for stack, n in listed["repeated"].items() if name.startswith(f"{stack}.*")), 1)
        expected |= {name.replace("*", str(i)): shape for i in range(count)}
    assert len(expected) == 625

    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in expected.items()}
        vision = vision_config(state)
        model = BlipScorer(vision, text_config(PUBLISHED, vision.hidden_size))
    assert {name: list(tensor.shape) for name, tensor in published_state_dict(model).items()} == expected
    assert (vision.num_attention_heads, vision.image_size, vision.num_hidden_layers) == (16, 224, 24)
    assert sum(parameter.numel() for parameter in model.parameters()) == 446_665_953


def test_each_weight_arrives_under_its_name(folder: Path) -> None:
    state = published_state_dict(load(folder))
    saved = torch.load(folder / "ImageReward.pt", weights_only=True)
    assert list(state) and state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)


def test_published_layout_round_trip_in_either_format(folder: Path, tmp_path: Path) -> None:
    model = load(folder).eval()
    (tmp_path / "med_config.json").write_text((folder / "med_config.json").read_text())
    save_file({k: v.contiguous() for k, v in published_state_dict(model).items()}, tmp_path / "weights.safetensors")
    inputs = torch.randn(2, 3, 224, 224), torch.randint(5, 20, (2, 35)), torch.ones(2, 35, dtype=torch.long)
    scores = model(*inputs)
    assert scores[0] != scores[1]
    assert_close_to_rounding(load(tmp_path).eval()(*inputs), scores)


def test_nothing_is_initialised_first_and_nothing_stays_on_the_meta_device(folder: Path) -> None:
    before = torch.get_rng_state()
    model = load(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(tensor.device.type == "cpu" for tensor in [*model.parameters(), *model.buffers()])


def test_towers_have_the_data_type_asked_for_and_the_head_float32_at_least(folder: Path) -> None:
    for dtype, head in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        model = load(folder, dtype=dtype)
        assert {p.dtype for name, p in model.named_parameters() if not name.startswith("mlp.")} == {dtype}
        assert {p.dtype for p in model.mlp.parameters()} == {head}


def test_position_ids_may_be_missing_but_not_others(changed: Callable[[Change], Path]) -> None:
    load(changed(lambda state: {k: v for k, v in state.items() if k != POSITION_IDS}))
    with pytest.raises(ValueError, match="position_ids is not 0, 1, ..."):
        load(changed(lambda state: state.update({POSITION_IDS: state[POSITION_IDS] + 1})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {k: v for k, v in state.items() if k != "blip.text_proj.bias"},
            r"ImageReward.pt: The weights do not fit .* med_config.json: 1 missing \(blip.text_proj.bias\)\.$",
        ),
        (
            lambda state: state.update({"blip.text_encoder.pooler.dense.bias": torch.zeros(32)}),
            r": 1 unexpected \(blip.text_encoder.pooler.dense.bias\)\.$",
        ),
        (
            lambda state: state.update({"mlp.layers.6.bias": torch.zeros(15), "mlp.layers.5.bias": torch.zeros(1)}),
            r": 1 unexpected \(mlp.layers.5.bias\); 1 of another shape \(mlp.layers.6.bias \[15\] instead of \[16\]\)",
        ),
        (
            lambda state: state.update({"blip.visual_encoder.blocks.7.norm1.bias": torch.zeros(64)}),
            r": 12 missing \(blip.visual_encoder.blocks.2.attn.proj.bias, .*; 1 unexpected \(.*blocks.7.norm1.bias\)",
        ),
        (
            lambda state: {"text_model.embeddings.position_ids": torch.arange(3)},
            "These are not ImageReward's weights: no blip.visual_encoder.patch_embed.proj.weight; "
            "it has text_model.embeddings.position_ids",
        ),
        (
            lambda state: state.update({"blip.visual_encoder.pos_embed": torch.zeros(50, 64)}),
            r"These are not ImageReward's weights: blip.visual_encoder.pos_embed is \[50, 64\]",
        ),
        (
            lambda state: state.update({"blip.visual_encoder.pos_embed": torch.zeros(1, 48, 64)}),
            "47 patches, which make no square",
        ),
        (lambda state: {"model": 1}, "ImageReward.pt holds no tensors by name"),
        (lambda state: {"model": Path("x")}, "ImageReward.pt cannot be read as tensors .* would run code"),
    ],
)
def test_another_checkpoint_is_refused_by_name(changed: Callable[[Change], Path], change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(changed(change))


def test_a_config_of_other_sizes_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "med_config.json").read_text())
    with pytest.raises(
        ValueError, match=r"1 of another shape \(blip.*word_embeddings.weight \[22, 32\] instead of \[23"
    ):
        load_scorer(folder, config | {"vocab_size": 23})
    for change, message in (
        ({"num_hidden_layers": None}, "does not say num_hidden_layers; it should be ImageReward's med_config.json"),
        ({"position_embedding_type": "relative_key"}, "asks for another text tower"),
        ({"add_cross_attention": False}, "asks for another text tower"),
        ({"num_attention_heads": 5}, "num_attention_heads 5 does not divide hidden_size 32"),
    ):
        path = tmp_path / "med_config.json"
        path.write_text(json.dumps({k: v for k, v in (config | change).items() if v is not None}))
        with pytest.raises(ValueError, match=message):
            read_config(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="med_config.json cannot be read as JSON"):
        read_config(path)


def test_files_that_are_missing_damaged_or_ambiguous(folder: Path, tmp_path: Path) -> None:
    config = read_config(folder / "med_config.json")
    with pytest.raises(
        FileNotFoundError, match="has med_config.json but no ImageReward.pt or .safetensors file beside"
    ):
        load_scorer(tmp_path, config)
    whole = (folder / "ImageReward.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"<html>", b""):
        (tmp_path / "ImageReward.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match="ImageReward.pt cannot be read as tensors .* it is damaged"):
            load_scorer(tmp_path, config)
    (tmp_path / "a.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="a.safetensors cannot be read as tensors"):
        load_scorer(tmp_path, config)
    (tmp_path / "b.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"several files of weights \(a.safetensors, b.safetensors\)"):
        load_scorer(tmp_path, config)


def test_weights_in_the_format_before_torch_1_6_are_read(folder: Path, tmp_path: Path) -> None:
    state = read_state_dict(folder / "ImageReward.pt")
    torch.save(state, tmp_path / "ImageReward.pt", _use_new_zipfile_serialization=False)
    old = read_state_dict(tmp_path / "ImageReward.pt")
    assert old.keys() == state.keys() and all(torch.equal(old[name], state[name]) for name in state)


def test_attention_heads_of_the_image_tower(fixtures: Path, folder: Path) -> None:
    tiny = read_state_dict(fixtures / "imagereward" / "tiny_model.safetensors")  # 48 wide
    assert vision_config(tiny, 4).num_attention_heads == 4
    with pytest.raises(ValueError, match="48 wide, no multiple of 64: give .* as vision_heads"):
        vision_config(tiny)
    for heads in (0, 5, -1):
        with pytest.raises(ValueError, match=f"48 wide; vision_heads must divide that, and {heads} does not"):
            vision_config(tiny, heads)
    config = vision_config(read_state_dict(folder / "ImageReward.pt"))
    expected = BlipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=224,
        patch_size=32,
        layer_norm_eps=1e-6,
    )
    assert config.to_dict() == expected.to_dict()
