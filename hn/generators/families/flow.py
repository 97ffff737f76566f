"""What pipelines with a flow-matching scheduler have in common."""

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from hn.generators.families.base import Family, FirstStep, require_multiples


class FlowMatching(Family):
    """The noise enters the backbone unscaled, and time runs from 1 at pure noise to 0.

    Subclasses whose backbone counts time differently state its first value.
    """

    first_timestep: float = 1.0

    def image_size(self, pipe: DiffusionPipeline) -> tuple[int, int]:
        size = pipe.default_sample_size * pipe.vae_scale_factor
        return size, size

    def check_steps(self, pipe: DiffusionPipeline, steps: int) -> None:
        """Raises:
        ValueError: if the scheduler has not as many steps, or if one step is asked of one that stretches its schedule
            to end at `shift_terminal`: the only noise level would have to be both that and 1.
        """
        super().check_steps(pipe, steps)
        if steps == 1 and pipe.scheduler.config.get("shift_terminal"):
            raise ValueError(
                f"{type(pipe.scheduler).__name__} has no one-step schedule with shift_terminal "
                f"{pipe.scheduler.config.shift_terminal}: its noise level would not be a number. Distilled generators "
                'are sampled with scheduler_options {"shift_terminal": null}; or ask for more steps.'
            )

    def first_step(self, pipe: DiffusionPipeline) -> FirstStep:
        # A scheduler of its own: the pipeline's keeps its state. `mu`, the shift, moves no schedule's ends.
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=1.0)
        level = float(scheduler.sigmas[0])
        if abs(level - 1) > 1e-6 or not torch.isfinite(scheduler.sigmas).all():
            raise ValueError(
                f"The schedule of {type(scheduler).__name__} starts at noise level {level:g}, not at pure noise; check "
                "scheduler and scheduler_options."
            )
        return FirstStep(self.first_timestep, 1.0)


class PackedFlowMatching(FlowMatching):
    """Latents are packed: one token [C] for each patch of 2 x 2, that is for 16 x 16 pixels at full size."""

    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        patch = 2 * pipe.vae_scale_factor
        require_multiples(height, width, patch)
        return (height // patch) * (width // patch), pipe.transformer.config.in_channels

    def to_spatial(self, noise: Tensor, height: int, width: int, pipe: DiffusionPipeline) -> Tensor:
        patch = 2 * pipe.vae_scale_factor
        return pixel_shuffle(noise.transpose(1, 2).unflatten(2, (height // patch, width // patch)), 2)

    def from_spatial(self, spatial: Tensor) -> Tensor:
        return pixel_unshuffle(spatial, 2).flatten(2).transpose(1, 2)
