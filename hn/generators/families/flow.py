"""What pipelines with a flow-matching scheduler have in common."""

import torch
from diffusers import DiffusionPipeline

from hn.generators.families.base import Family, FirstStep


class FlowMatching(Family):
    """The noise enters the backbone unscaled, and time runs from 1 at pure noise to 0.

    Subclasses whose backbone counts time differently state its first value.
    """

    first_timestep: float = 1.0

    def first_step(self, pipe: DiffusionPipeline) -> FirstStep:
        # A scheduler of its own: the pipeline's keeps its state. `mu`, the shift, moves no schedule's ends.
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        scheduler.set_timesteps(sigmas=[1.0], mu=1.0)
        level = float(scheduler.sigmas[0])
        if abs(level - 1) > 1e-6 or not torch.isfinite(scheduler.sigmas).all():
            raise ValueError(
                f"The one-step schedule of {type(scheduler).__name__} starts at noise level {level:g}, not at pure "
                'noise; distilled generators are sampled with scheduler_options {"shift_terminal": null}.'
            )
        return FirstStep(self.first_timestep, 1.0)
