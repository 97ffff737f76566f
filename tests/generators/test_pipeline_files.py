"""What is found out about a pipeline from its configuration files, before any weights are loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import constants

from hn.generators import DiffusersGenerator
from hn.generators.assemble import Component, FusedLora
from hn.hypernets import LoraHypernet
from tests.tiny_pipelines import CASES, NETWORKS


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading weights fails the test."""
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("diffusers.ModelMixin.from_pretrained", lambda *_, **__: pytest.fail("loaded"))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_pipeline_folder: Path) -> Path:
    """No network, and a cache that holds the tiny pipeline as `owner/name`; the snapshot's folder."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return Path(shutil.copytree(tiny_pipeline_folder, repository / "snapshots" / ("0" * 40)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_family_is_built_on_meta_without_its_weights(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    pipe = case.build()
    pipe.save_pretrained(tmp_path)
    options = {"height": case.size[0], "width": case.size[1], "family": case.family}
    meta_generator = DiffusersGenerator.build_on_meta(str(tmp_path), dtype="bfloat16", **options)
    loaded = DiffusersGenerator.from_pipeline(pipe, **options)
    assert meta_generator.device.type == "meta" and meta_generator.dtype == torch.bfloat16
    assert (meta_generator.noise_shape, meta_generator.last_layer) == (loaded.noise_shape, loaded.last_layer)
    assert meta_generator.family.image_size(meta_generator.pipe) == loaded.family.image_size(loaded.pipe)
    assert type(meta_generator.pipe.scheduler) is type(loaded.pipe.scheduler)
    shapes = [{n: p.shape for n, p in g.backbone.named_parameters()} for g in (meta_generator, loaded)]
    assert shapes[0] == shapes[1]
    with pytest.raises(ValueError, match="Height and width must be positive multiples of"):
        DiffusersGenerator.build_on_meta(str(tmp_path), **{**options, "height": 33})


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 30}, "Height and width must be positive multiples of 8, not 30 x 32"),
        ({"steps": 0}, r"steps \(0\)"),
        ({"family": "hn.generators.families.flux.Flux"}, "The Flux family runs a FluxPipeline, not a StableDiffusionP"),
        ({"family": "hn.generators.families.flux.Fluxx"}, "No class at 'hn.generators.families.flux.Fluxx'"),
        ({"scheduler": "diffusers.LCM"}, "No class at 'diffusers.LCM'"),
    ],
)
def test_what_does_not_fit_is_said_before_weights_are_loaded(make_generator, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_generator(**options)


@pytest.mark.usefixtures("nothing_loaded")
def test_an_overflowing_autoencoder_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    pipe = CASES["stable_diffusion_xl"].build()
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="overflows in float16; set dtype to bfloat16"):
        DiffusersGenerator(str(tmp_path), dtype="float16")


def test_on_meta_it_has_the_network_in_the_place_of_the_pipelines_own(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    config = UNet2DConditionModel.load_config(tiny_pipeline_folder, subfolder="unet")
    UNet2DConditionModel.from_config({**config, "block_out_channels": (8, 24)}).save_pretrained(tmp_path / "other")
    components = {"unet": Component(str(tmp_path), subfolder="other")}
    meta_generator = DiffusersGenerator.build_on_meta(str(tiny_pipeline_folder), components=components)
    assert meta_generator.backbone.config.block_out_channels == [8, 24]


def test_hypernetworks_can_be_tried_on_the_meta_device(tiny_pipeline_folder: Path) -> None:
    meta_generator = DiffusersGenerator.build_on_meta(str(tiny_pipeline_folder))
    with torch.device("meta"):
        hypernet = LoraHypernet(rank=2).build(meta_generator)
    assert {p.device.type for p in hypernet.parameters()} == {"meta"}
    with pytest.raises(ValueError, match="has no layer 'proj_out'"), torch.device("meta"):
        LoraHypernet(rank=2, last_layer="proj_out").build(meta_generator)


@pytest.mark.parametrize(
    "missing",
    ["unet/diffusion_pytorch_model.safetensors", "unet", "vae/config.json", "scheduler", "text_encoder",
     "text_encoder/model.safetensors", "tokenizer", "tokenizer/tokenizer.json"],
)  # fmt: skip
def test_a_partial_download_is_said_with_the_command_that_completes_it(cache: Path, missing: str) -> None:
    path = cache / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        DiffusersGenerator("owner/name")
    message = str(caught.value)
    assert "some of its files are not in the local cache" in message
    assert "run:  hf download owner/name\n" in message
    assert f"cache in use is {constants.HF_HUB_CACHE}; set HF_HOME" in message


def test_a_cached_pipeline_loads_without_network(cache: Path) -> None:
    assert DiffusersGenerator("owner/name").name == "owner/name"


def test_a_variant_that_is_not_there_is_said(cache: Path, tiny_pipeline_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'hf download owner/name --include .* --include "\*\.fp16\*"'):
        DiffusersGenerator("owner/name", variant="fp16")
    with pytest.raises(FileNotFoundError, match="is incomplete; it has no .*fp16.safetensors in any of its folders"):
        DiffusersGenerator(str(tiny_pipeline_folder), variant="fp16")


def test_a_revision_that_is_not_cached_is_said(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"hf download owner/name --revision v9\n"):
        DiffusersGenerator("owner/name", revision="v9")


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({"components": {"unet": Component("o/unet", file="one.safetensors")}}, "hf download o/unet one.safetensors\n"),
        (
            {"components": {"unet": Component("o/unet", "sub", "v2", file="one.safetensors")}},
            "hf download o/unet sub/one.safetensors --revision v2\n",
        ),
        ({"components": {"unet": Component("o/unet", "sub")}}, 'hf download o/unet --include "sub/*"\n'),
        ({"fuse_loras": [FusedLora("o/lora", "l.safetensors")]}, "hf download o/lora l.safetensors\n"),
    ],
)
def test_missing_parts_are_said_with_the_command_for_exactly_them(cache: Path, options: dict, command: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        DiffusersGenerator("owner/name", **options)
    assert f"run:  {command}" in str(caught.value)


def test_a_pipeline_that_diffusers_does_not_have_is_refused(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "copy"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "NewPipeline"}))
    with pytest.raises(ValueError, match="No family is known for NewPipeline"):
        DiffusersGenerator(str(folder))
    with pytest.raises(ValueError, match=r"This version of diffusers .* has no NewPipeline"):
        DiffusersGenerator(str(folder), family="hn.generators.families.stable_diffusion.StableDiffusion")
