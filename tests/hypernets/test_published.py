"""Noise hypernetworks published as LoRA adapters alone, in the layouts found in the wild."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from hn.hypernets import Hypernet, LoraFinetune, LoraHypernet

RULE = "lora_branch_only"


@pytest.fixture(params=["trainer_layout", "hub_layout"])
def published(request: pytest.FixtureRequest, fixtures: Path, tmp_path: Path) -> Path:
    """A copy of the published folder, to be changed."""
    return Path(shutil.copytree(fixtures / "adapter_format" / request.param, tmp_path / "published"))


@pytest.fixture
def hub_layout(fixtures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fixtures / "adapter_format" / "hub_layout", tmp_path / "published"))


def test_both_layouts_give_the_published_f(published: Path, sana, sana_inputs, fixtures: Path, tmp_path: Path) -> None:
    expected = load_file(fixtures / "adapter_format" / "outputs.safetensors")
    x0, conditioning = sana_inputs
    hypernet = LoraHypernet.from_published(published, sana, last_layer_rule=RULE)
    assert (hypernet.rank, hypernet.alpha, hypernet.last_layer) == (4, 8, "proj_out")
    f = hypernet(x0, conditioning)
    torch.testing.assert_close(f, expected["f_x0"], atol=2e-5, rtol=0)
    torch.testing.assert_close(hypernet.modulate(x0, conditioning), expected["modulated"], atol=2e-5, rtol=0)
    # Saved by us it says everything itself.
    hypernet.save_pretrained(tmp_path / "ours")
    assert torch.equal(Hypernet.from_pretrained(tmp_path / "ours", sana)(x0, conditioning), f)


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_every_mixture_of_the_layouts_gives_f(
    hub_layout: Path, sana, sana_inputs, fixtures: Path, name: str, prefix: str, config: bool
) -> None:
    path = hub_layout / "adapter_model.safetensors"
    state = {prefix + key.removeprefix("base_model.model."): tensor for key, tensor in load_file(path).items()}
    path.unlink()
    (save_file if path.name == name else torch.save)(state, hub_layout / name)
    if not config:
        (hub_layout / "adapter_config.json").unlink()
    hypernet = LoraHypernet.from_published(hub_layout, sana, last_layer_rule=RULE, alpha=None if config else 8)
    expected = load_file(fixtures / "adapter_format" / "outputs.safetensors")["f_x0"]
    torch.testing.assert_close(hypernet(*sana_inputs), expected, atol=2e-5, rtol=0)


def test_without_a_config_alpha_is_stated_and_the_rank_read_off(published: Path, sana, sana_inputs, fixtures) -> None:
    (published / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="no adapter_config.json to say alpha"):
        LoraHypernet.from_published(published, sana, last_layer_rule=RULE)
    hypernet = LoraHypernet.from_published(published, sana, last_layer_rule=RULE, alpha=8)
    expected = load_file(fixtures / "adapter_format" / "outputs.safetensors")["f_x0"]
    torch.testing.assert_close(hypernet(*sana_inputs), expected, atol=2e-5, rtol=0)


def test_the_last_layer_rule_has_to_be_stated(published: Path, sana) -> None:
    with pytest.raises(ValueError, match="does not say what becomes of the last layer.* State last_layer_rule='lora_b"):
        LoraHypernet.from_published(published, sana)
    with pytest.raises(ValueError, match="last_layer_rule asks for the last-layer rule 'zero_conv'"):
        LoraHypernet.from_published(published, sana, last_layer_rule="zero_conv")
    with pytest.raises(FileNotFoundError, match="has no hypernet_config.json.*from_published"):
        Hypernet.from_pretrained(published, sana)


def test_a_stated_rule_does_not_overrule_the_files(hub_layout: Path, sana) -> None:
    (hub_layout / "hypernet_config.json").write_text(json.dumps({"last_layer_rule": "zero_conv"}))
    with pytest.raises(ValueError, match="hypernet_config.json asks for the last-layer rule 'zero_conv'"):
        LoraHypernet.from_published(hub_layout, sana, last_layer_rule=RULE)
    (hub_layout / "hypernet_config.json").write_text(json.dumps({"last_layer_rule": None}))
    assert LoraHypernet.from_published(hub_layout, sana, last_layer_rule=RULE).rank == 4


def test_an_adapter_of_another_model_is_refused(hub_layout: Path, generator) -> None:
    for load in (LoraHypernet.from_published, LoraFinetune.from_pretrained):
        options = {"last_layer_rule": RULE} if load == LoraHypernet.from_published else {}
        with pytest.raises(ValueError, match=r"of its 31 layers none is a Linear or Conv2d of UNet2DConditionModel"):
            load(hub_layout, generator, **options)


def test_keys_that_do_not_match_are_named(hub_layout: Path, sana) -> None:
    path = hub_layout / "adapter_model.safetensors"
    state = {key.replace("blocks.1", "blocks.7"): tensor for key, tensor in load_file(path).items()}
    save_file(state, path)
    with pytest.raises(ValueError, match=r"of its 31 layers 20 is a .*unknown are transformer_blocks.7.attn1.to_k, "):
        LoraHypernet.from_published(hub_layout, sana, last_layer_rule=RULE)


def test_another_size_of_the_same_family_is_refused(hub_layout: Path, sana) -> None:
    path = hub_layout / "adapter_model.safetensors"
    state = load_file(path)
    state["base_model.model.caption_projection.linear_1.lora_A.weight"] = torch.zeros(4, 48)
    save_file(state, path)
    with pytest.raises(ValueError, match=r"1 of another shape \(backbone.caption_projection.linear_1.lora_A"):
        LoraHypernet.from_published(hub_layout, sana, last_layer_rule=RULE)


def test_an_adapter_without_the_last_layer_is_refused(hub_layout: Path, sana) -> None:
    with pytest.raises(ValueError, match="has no layer 'conv_out'"):
        LoraHypernet.from_published(hub_layout, sana, last_layer_rule=RULE, last_layer="conv_out")
    path = hub_layout / "adapter_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(path).items() if "proj_out" not in key}, path)
    with pytest.raises(ValueError, match="lacks weights of layers that adapter_config.json names: proj_out"):
        LoraHypernet.from_published(hub_layout, sana, last_layer_rule=RULE)
    (hub_layout / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="'proj_out' of SanaTransformer2DModel got no LoRA"):
        LoraHypernet.from_published(hub_layout, sana, last_layer_rule=RULE, alpha=8)


def test_a_hub_id_is_found_in_the_cache(published: Path, sana, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(published, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert LoraHypernet.from_published("owner/name", sana, last_layer_rule=RULE).rank == 4
