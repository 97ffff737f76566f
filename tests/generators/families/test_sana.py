import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC, SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler
from safetensors.torch import load_file

from hn.generators import DiffusersGenerator
from hn.generators.families.sana import SanaSprint
from hn.hypernets import LoraHypernet

TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def published(fixtures: Path) -> dict[str, Any]:
    """Configuration, inputs, LoRA and outputs of the published implementation on tiny SANA-Sprint components."""
    folder = fixtures / "sana"
    tensors = {**load_file(folder / "inputs.safetensors"), **load_file(folder / "outputs_nonzero.safetensors")}
    lora = load_file(folder / "lora_nonzero_init.safetensors")
    return {"config": json.loads((folder / "config.json").read_text()), "lora": lora, **tensors}


@pytest.fixture(scope="module")
def sana(fixtures: Path, published: dict[str, Any]) -> DiffusersGenerator:
    folder, config = fixtures / "sana", published["config"]
    transformer, vae = SanaTransformer2DModel(**config["transformer"]), AutoencoderDC(**config["vae"])
    transformer.load_state_dict(load_file(folder / "transformer.safetensors"))
    vae.load_state_dict(load_file(folder / "vae.safetensors"))
    pipe = SanaSprintPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=SCMScheduler(**config["scheduler"]),
    )
    return DiffusersGenerator.from_pipeline(pipe, height=32, width=32)


@pytest.fixture
def conditioning(published: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: published[name] for name in ("prompt_embeds", "prompt_attention_mask")}


@pytest.fixture
def hypernet(sana: DiffusersGenerator, published: dict[str, Any]) -> LoraHypernet:
    settings = published["config"]["lora"]
    hypernet = LoraHypernet(rank=settings["r"], alpha=settings["lora_alpha"]).build(sana)
    lora = {name.replace(".weight", ".default.weight"): tensor for name, tensor in published["lora"].items()}
    hypernet.load_trainable_state_dict({f"backbone.{name}": tensor for name, tensor in lora.items()})
    return hypernet


def test_the_base_image_is_the_published_one(sana, published, conditioning) -> None:
    image = sana.generate(published["x0"], conditioning)
    torch.testing.assert_close(image, published["image_1step_base"], **TOLERANCE)


def test_f_and_modulated_noise_are_the_published_ones(hypernet, published, conditioning) -> None:
    f = hypernet(published["x0"], conditioning)
    torch.testing.assert_close(f, published["pred_latents"], **TOLERANCE)
    modulated = hypernet.modulate(published["x0"], conditioning)
    torch.testing.assert_close(modulated, published["modulated_latents"], **TOLERANCE)


@pytest.mark.parametrize(("steps", "name"), [(1, "image_1step"), (2, "image_2step_1.3")])
def test_images_of_modulated_noise_are_the_published_ones(
    sana, published, conditioning, monkeypatch, steps: int, name: str
) -> None:
    # The scheduler's draws, replayed: it multiplies each by sigma_data.
    draws = iter(published["noise_2step_1.3"])
    monkeypatch.setattr("diffusers.schedulers.scheduling_scm.randn_tensor", lambda *_, **__: next(draws))
    image = sana.generate(published["modulated_latents"], conditioning, steps)
    torch.testing.assert_close(image, published[name], **TOLERANCE)


def test_the_first_step_is_told_guidance_and_time_as_published(sana, published, conditioning) -> None:
    calls = []
    hook = sana.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    sana.first_step(sana.backbone, published["x0"], conditioning)
    hook.remove()
    ((model_input,), options) = calls[0]
    assert torch.equal(model_input, published["x0"])  # unit variance, not multiplied by sigma_data
    assert torch.equal(options["timestep"], torch.ones(4))
    torch.testing.assert_close(options["guidance"], torch.full((4,), 0.45))


def test_the_instruction_is_the_pipelines_own() -> None:
    assert SanaSprint().instruction[-1] == "User Prompt: " and len(SanaSprint().instruction) > 3
    assert SanaSprint(instruction=[]).instruction == []
