import pytest
import torch
from diffusers import QwenImagePipeline

from hn.generators import DiffusersGenerator
from tests.tiny_pipelines import qwen_image


@pytest.fixture(scope="module")
def pipe() -> QwenImagePipeline:
    """Sampled as the undistilled checkpoint is: the schedule is stretched to end at 0.02."""
    pipe = qwen_image()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift_terminal=0.02)
    return pipe


def test_one_step_of_a_stretched_schedule_is_refused(pipe: QwenImagePipeline) -> None:
    generator = DiffusersGenerator.from_pipeline(pipe, height=32, width=48)
    noise, conditioning = generator.sample_noise(1), generator.encode(["a red cube"])
    message = 'no one-step schedule with shift_terminal 0.02.*"shift_terminal": null'
    for call in (lambda: generator.generate(noise, conditioning), lambda: generator.check_steps(None)):
        with pytest.raises(ValueError, match=message):
            call()


def test_more_steps_of_a_stretched_schedule_start_at_pure_noise(pipe: QwenImagePipeline) -> None:
    generator = DiffusersGenerator.from_pipeline(pipe, height=32, width=48, steps=4)
    noise, conditioning = generator.sample_noise(1), generator.encode(["a red cube"])
    with torch.no_grad():
        assert generator.generate(noise, conditioning).isfinite().all()
        assert generator.first_step(generator.backbone, noise, conditioning).isfinite().all()
    assert generator.family.first_step(generator.pipe).timestep == 1.0


def test_a_schedule_that_starts_elsewhere_has_no_first_step(pipe: QwenImagePipeline) -> None:
    generator = DiffusersGenerator.from_pipeline(
        pipe, height=32, width=48, scheduler_options={"shift_terminal": None, "invert_sigmas": True}
    )
    with pytest.raises(ValueError, match="starts at noise level 0, not at pure noise"):
        generator.family.first_step(generator.pipe)
