"""Pipelines put together from other networks, LoRAs and schedulers, as a configuration asks for."""

import logging
from pathlib import Path

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import constants
from jsonargparse import ArgumentParser
from safetensors.torch import save_file

from hn.generators import DiffusersGenerator
from hn.generators.assemble import Component, FusedLora
from tests.tiny_pipelines import pixart


@pytest.fixture
def other_unet(tiny_pipeline_folder: Path, tmp_path: Path) -> tuple[UNet2DConditionModel, Path]:
    """Another UNet of the same configuration, saved as a folder, in a subfolder, and as a file of weights alone."""
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(tiny_pipeline_folder, subfolder="unet"))
    unet.save_pretrained(tmp_path / "unet")
    save_file(unet.state_dict(), tmp_path / "one_step.safetensors")
    return unet, tmp_path


@pytest.mark.parametrize(
    "options", [{"subfolder": "unet"}, {"file": "one_step.safetensors"}], ids=["folder", "file of weights"]
)
def test_another_unet_takes_the_place_of_the_pipelines_own(make_generator, generator, other_unet, options) -> None:
    unet, folder = other_unet
    assembled = make_generator(components={"unet": Component(str(folder), **options)}, dtype="float64")
    expected = unet.double().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in assembled.backbone.state_dict().items())
    own = generator.pipe.vae.decoder.conv_in.weight.double()
    assert torch.equal(assembled.pipe.vae.decoder.conv_in.weight, own)
    assert not any(p.requires_grad for p in assembled.parameters())


def test_another_scheduler_keeps_the_configuration(make_generator, generator) -> None:
    other = make_generator(scheduler="diffusers.LCMScheduler", scheduler_options={"original_inference_steps": 20})
    assert isinstance(other.pipe.scheduler, LCMScheduler)
    assert other.pipe.scheduler.config.beta_end == generator.pipe.scheduler.config.beta_end
    assert other.pipe.scheduler.config.original_inference_steps == 20


@pytest.mark.parametrize(("options", "warnings"), [({}, 1), ({"clip_sample": True}, 0), ({"clip_sample": False}, 0)])
def test_a_scheduler_that_clips_by_default_is_warned_about(caplog: pytest.LogCaptureFixture, options, warnings) -> None:
    pipe = pixart()
    pipe.scheduler = DPMSolverMultistepScheduler()  # says nothing of clipping, as in PixArt's repositories
    with caplog.at_level(logging.WARNING, logger="hn"):
        DiffusersGenerator.from_pipeline(pipe, scheduler="diffusers.DDPMScheduler", scheduler_options=options)
    messages = [record.getMessage() for record in caplog.records if record.name == "hn.generators.assemble"]
    assert len(messages) == warnings and all("DDPMScheduler clips to -1 and 1" in message for message in messages)


def test_a_scheduler_for_a_pipeline_in_memory(stock_pipeline: StableDiffusionPipeline) -> None:
    generator = DiffusersGenerator.from_pipeline(stock_pipeline, scheduler="diffusers.EulerDiscreteScheduler")
    assert isinstance(generator.pipe.scheduler, EulerDiscreteScheduler)
    assert not isinstance(stock_pipeline.scheduler, EulerDiscreteScheduler)


def test_a_lora_is_fused_into_the_weights(make_generator, generator, tmp_path: Path) -> None:
    name = "mid_block.attentions.0.proj_in"
    layer = generator.backbone.get_submodule(name)
    a, b = torch.randn(2, layer.weight.shape[1], 1, 1), torch.randn(layer.weight.shape[0], 2, 1, 1)
    save_file({f"unet.{name}.lora_A.weight": a, f"unet.{name}.lora_B.weight": b}, tmp_path / "lora.safetensors")
    fused = make_generator(fuse_loras=[FusedLora(str(tmp_path), "lora.safetensors", scale=0.5)])
    expected = layer.weight + 0.5 * torch.einsum("or,ri->oi", b[..., 0, 0], a[..., 0, 0])[..., None, None]
    torch.testing.assert_close(fused.backbone.get_submodule(name).weight, expected)
    assert list(fused.backbone.state_dict()) == list(generator.backbone.state_dict())  # no adapter layers remain


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scheduler": "diffusers.UNet2DConditionModel"}, ValueError, "not a subclass of .*SchedulerMixin"),
        ({"components": {"transformer": Component("x/y")}}, ValueError, "no network 'transformer'.*it has .*unet"),
        ({"components": {"unet": Component("no/such/folder")}}, FileNotFoundError, "no folder no/such/folder"),
        ({"fuse_loras": [FusedLora("no/such/folder", "x")]}, FileNotFoundError, "no folder no/such/folder"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_loaded(
    make_generator, monkeypatch, options, error, message
) -> None:
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(error, match=message):
        make_generator(**options)


def test_missing_weights_are_reported_with_the_command_that_gets_them(make_generator, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="run:  hf download ByteDance/Hyper-SD"):
        make_generator(components={"unet": Component("ByteDance/Hyper-SD", file="Hyper-SDXL-1step-Unet.safetensors")})


def test_weights_of_another_network_are_refused(make_generator, tmp_path: Path) -> None:
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match="does not hold the weights of a UNet2DConditionModel"):
        make_generator(components={"unet": Component(str(tmp_path), file="wrong.safetensors")})


def test_a_configuration_file_describes_the_assembly() -> None:
    parser = ArgumentParser()
    parser.add_argument("--generator", type=DiffusersGenerator)
    settings = {
        "pretrained": "stabilityai/stable-diffusion-xl-base-1.0",
        "components": {"unet": {"pretrained": "ByteDance/Hyper-SD", "file": "Hyper-SDXL-1step-Unet.safetensors"}},
        "fuse_loras": [{"pretrained": "a/b", "file": "c.safetensors", "scale": 0.125}],
    }
    parsed = parser.parse_object(
        {"generator": {"class_path": "hn.generators.DiffusersGenerator", "init_args": settings}}
    )
    init = parsed.generator.init_args
    assert init.components["unet"].file == "Hyper-SDXL-1step-Unet.safetensors"
    assert init.fuse_loras[0].scale == 0.125
