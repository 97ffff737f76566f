"""Whatever was trained, loaded by looking at its files."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from hn.generators import DiffusersGenerator
from hn.hypernets import LoraFinetune, LoraHypernet
from hn.hypernets.trained import load_trained
from tests.tiny_pipelines import CASES

RULE = "lora_branch_only"


@pytest.fixture
def hypernet(generator: DiffusersGenerator) -> LoraHypernet:
    return perturbed(LoraHypernet(rank=2).build(generator))


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    return model


@pytest.fixture
def saved(hypernet: LoraHypernet, tmp_path: Path) -> Path:
    hypernet.save_pretrained(tmp_path / "hypernet")
    return tmp_path / "hypernet"


@pytest.fixture
def published(saved: Path, tmp_path: Path) -> Path:
    """The adapter alone, as others publish it."""
    folder = Path(shutil.copytree(saved, tmp_path / "published"))
    (folder / "hypernet_config.json").unlink()
    return folder


@pytest.mark.exact
def test_a_hypernetwork_is_recognised(hypernet, saved, generator) -> None:
    noise, conditioning = generator.sample_noise(1), generator.encode(["a cube"])
    loaded = load_trained(str(saved), generator)
    assert torch.equal(loaded(noise, conditioning), hypernet(noise, conditioning))


def test_a_fine_tune_is_recognised(generator, tmp_path) -> None:
    finetune = LoraFinetune(rank=2).build(generator)
    perturbed(finetune).save_pretrained(tmp_path)
    noise, conditioning = generator.sample_noise(1), generator.encode(["a cube"])
    loaded = load_trained(str(tmp_path), generator)
    assert isinstance(loaded, LoraFinetune)
    images, f = loaded.images(noise, conditioning)
    assert torch.equal(images, finetune.images(noise, conditioning)[0])
    assert torch.equal(f, torch.zeros_like(noise))
    assert not torch.equal(images, generator.generate(noise, conditioning))


def test_a_published_adapter_needs_the_rule(hypernet, published, generator) -> None:
    with pytest.raises(ValueError, match=r"\(--last_layer_rule lora_branch_only of hn generate\)"):
        load_trained(str(published), generator)
    noise, conditioning = generator.sample_noise(1), generator.encode(["a cube"])
    loaded = load_trained(str(published), generator, last_layer_rule=RULE)
    assert torch.equal(loaded(noise, conditioning), hypernet(noise, conditioning))
    (published / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="no adapter_config.json to say alpha"):
        load_trained(str(published), generator, last_layer_rule=RULE)
    assert load_trained(str(published), generator, last_layer_rule=RULE, alpha=4).alpha == 4


@pytest.mark.parametrize("options", [{"last_layer_rule": RULE}, {"alpha": 4.0}])
def test_what_the_files_say_is_not_stated(saved, generator, options) -> None:
    with pytest.raises(ValueError, match="has a hypernet_config.json, which says all that is needed"):
        load_trained(str(saved), generator, **options)


def test_it_is_tried_on_a_generator_without_weights(saved, published, tiny_pipeline_folder, make_generator) -> None:
    meta_generator = DiffusersGenerator.build_on_meta(str(tiny_pipeline_folder))
    with torch.device("meta"):
        loaded = load_trained(str(saved), meta_generator)
        assert {p.device.type for p in loaded.parameters()} == {"meta"}
        assert load_trained(str(published), meta_generator, last_layer_rule=RULE).rank == 2


def test_another_backbone_is_refused_without_weights(saved, tmp_path) -> None:
    CASES["flux"].build().save_pretrained(tmp_path / "flux")
    meta_generator = DiffusersGenerator.build_on_meta(str(tmp_path / "flux"), height=32, width=32)
    message = "for a UNet2DConditionModel, but the generator has a FluxTransformer2DModel"
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        load_trained(str(saved), meta_generator)


def test_a_missing_folder_and_an_empty_one_are_told_apart(generator, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder no/such/thing"):
        load_trained("no/such/thing", generator)
    with pytest.raises(FileNotFoundError, match="has no hypernet_config.json or finetune_config.json or adapter_model"):
        load_trained(str(tmp_path), generator)


def test_a_partial_download_is_said_with_the_command(saved, published, generator, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="run:  hf download owner/name --revision v2\n"):
        load_trained("owner/name", generator, revision="v2")
    repository = tmp_path / "cache" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = Path(shutil.copytree(saved, repository / "snapshots" / ("0" * 40)))
    assert load_trained("owner/name", generator).rank == 2
    (snapshot / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="some of its files are not in the local cache") as caught:
        load_trained("owner/name", generator)
    assert "run:  hf download owner/name\n" in str(caught.value)
