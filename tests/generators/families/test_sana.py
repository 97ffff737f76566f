import pytest
import torch

from hn.generators import PipelineGenerator
from hn.generators.families.sana import SanaSprint

TOLERANCE = {"atol": 2e-5, "rtol": 0}


def test_the_base_image_is_the_published_one(sana) -> None:
    image = sana.generator.generate(sana["x0"], sana.conditioning)
    torch.testing.assert_close(image, sana["image_1step_base"], **TOLERANCE)


def test_f_and_modulated_noise_are_the_published_ones(sana) -> None:
    hypernet, noise = sana.hypernet(), sana["x0"]
    torch.testing.assert_close(hypernet(noise, sana.conditioning), sana["pred_latents"], **TOLERANCE)
    torch.testing.assert_close(hypernet.modulate(noise, sana.conditioning), sana["modulated_latents"], **TOLERANCE)


@pytest.mark.parametrize(("steps", "name"), [(1, "image_1step"), (2, "image_2step_1.3")])
def test_images_of_modulated_noise_are_the_published_ones(sana, monkeypatch, steps: int, name: str) -> None:
    # The scheduler's draws, replayed: it multiplies each by sigma_data.
    draws = iter(sana["noise_2step_1.3"])
    monkeypatch.setattr("diffusers.schedulers.scheduling_scm.randn_tensor", lambda *_, **__: next(draws))
    image = sana.generator.generate(sana["modulated_latents"], sana.conditioning, steps)
    torch.testing.assert_close(image, sana[name], **TOLERANCE)


def test_the_first_step_is_told_guidance_and_time_as_published(sana) -> None:
    calls, backbone = [], sana.generator.backbone
    hook = backbone.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    sana.generator.first_step(backbone, sana["x0"], sana.conditioning)
    hook.remove()
    ((model_input,), options) = calls[0]
    assert torch.equal(model_input, sana["x0"])  # unit variance, not multiplied by sigma_data
    assert torch.equal(options["timestep"], torch.ones(4))
    torch.testing.assert_close(options["guidance"], torch.full((4,), 0.45))


def test_the_instruction_is_the_pipelines_own() -> None:
    assert SanaSprint().instruction[-1] == "User Prompt: " and len(SanaSprint().instruction) > 3
    assert SanaSprint(instruction=[]).instruction == []


def test_two_steps_can_be_evenly_spaced(sana) -> None:
    generator = PipelineGenerator(
        sana.generator.pipe, height=32, width=32, family=SanaSprint(intermediate_timestep=None)
    )
    angles = {}
    for name, each in (("given", sana.generator), ("even", generator)):
        each.generate(sana["x0"], sana.conditioning, 2, torch.Generator().manual_seed(0))
        angles[name] = each.pipe.scheduler.timesteps.tolist()
    assert angles["given"] == pytest.approx([1.5708, 1.3, 0])
    assert angles["even"] == pytest.approx([1.5708, 0.7854, 0], abs=1e-4)
