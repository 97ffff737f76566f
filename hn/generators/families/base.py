"""A family: the few facts that a pipeline class does not tell by itself."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hn.generators.base import Conditioning


def require_multiples(height: int, width: int, multiple: int) -> None:
    """Raises:
    ValueError: if the height or the width of an image is not a positive multiple of `multiple`.
    """
    if height % multiple or width % multiple or height <= 0 or width <= 0:
        raise ValueError(f"Height and width must be positive multiples of {multiple}, not {height} x {width}.")


def describe_untrained_size(height: int, width: int, trained: Sequence[tuple[int, int]]) -> str | None:
    """What to say of images that have less than half or more than twice the pixels that a generator was trained for.

    Names the trained size of the nearest aspect ratio; None if there is nothing to say.
    """
    pixels = [trained_height * trained_width for trained_height, trained_width in trained]
    if min(pixels) / 2 <= height * width <= 2 * max(pixels):
        return None
    nearest = min(trained, key=lambda size: abs(math.log(size[0] / size[1]) - math.log(height / width)))
    return (
        f"Images of {height} x {width} pixels are far from the sizes that these weights were trained for; expect poor "
        f"ones. The trained size of the nearest aspect ratio is {nearest[0]} x {nearest[1]}."
    )


@dataclass(frozen=True)
class FirstStep:
    """How the backbone is called at pure noise.

    Attributes:
        timestep: the first timestep, as the backbone takes it.
        input_scale: what noise ~ N(0, I) is multiplied with to become the backbone's input.
    """

    timestep: float
    input_scale: float


@dataclass(frozen=True)
class BackboneInputs:
    """What the backbone is called with at the first step.

    Attributes:
        sample: [B, *noise_shape] scaled noise, in the backbone's data type.
        timestep: [B] float32.
        conditioning: of B prompts.
        height: of the images in pixels.
        width: likewise.
    """

    sample: Tensor
    timestep: Tensor
    conditioning: Conditioning
    height: int
    width: int


def first_step_of(scheduler: SchedulerMixin) -> FirstStep:
    """The first step of a scheduler whose timesteps are set.

    The pipeline multiplies the noise by init_noise_sigma and the scheduler scales it for the network: both are linear,
    so one number says it. Asked in float64, without the rounding of either.
    """
    timestep = scheduler.timesteps[0]
    one = torch.ones(1, dtype=torch.float64) * scheduler.init_noise_sigma
    return FirstStep(float(timestep), float(scheduler.scale_model_input(one, timestep)))


class Family(ABC):
    """Facts about one kind of pipeline. Holds options but no state: the pipeline is passed to every method.

    Attributes:
        pipeline_class: the pipelines it runs.
        backbone_name: the pipeline's attribute that holds the denoising network.
        last_layer: name of the backbone's last layer.
        load_options: keyword arguments for the pipeline's `from_pretrained`.
        text_width_name: entry of the backbone's configuration that says how wide the text states are.
        latents_dtype: data type in which the pipeline keeps its latents, if not the backbone's.
        max_sequence_length: tokens of the prompt, where the pipeline takes their number; else the tokenizer's.
        text_parts: the pipeline's attributes that `encode` alone needs: tokenizers and text encoders.
        tokens_from: the pipeline's attribute that holds the tokenizer whose tokens networks may read.
        encoding_options: names of the family's options on which `encode` depends; None for all of them. A subclass with
            an `encode` of its own states them anew.
        reads_conditioning: whether `call_backbone` depends on values of the conditioning, like the number of tokens, so
            that it cannot be exported as a program.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    backbone_name: ClassVar[str]
    last_layer: ClassVar[str]
    load_options: ClassVar[dict[str, Any]] = {}
    latents_dtype: ClassVar[torch.dtype | None] = None
    text_width_name: ClassVar[str] = "joint_attention_dim"
    max_sequence_length: int | None = None
    text_parts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    tokens_from: ClassVar[str] = "tokenizer"
    encoding_options: ClassVar[tuple[str, ...] | None] = None
    reads_conditioning: ClassVar[bool] = False

    def check(self, pipe: DiffusionPipeline) -> None:
        """Raises:
        ValueError: if this family cannot run `pipe`.
        """
        if not isinstance(pipe, self.pipeline_class):
            own, given = self.pipeline_class.__name__, type(pipe).__name__
            raise ValueError(f"The {type(self).__name__} family runs a {own}, not a {given}.")

    @abstractmethod
    def image_size(self, pipe: DiffusionPipeline) -> tuple[int, int]:
        """Default height and width in pixels."""

    def trained_sizes(self, pipe: DiffusionPipeline) -> list[tuple[int, int]]:
        """Heights and widths in pixels that the weights were trained for, where they are known; else the default."""
        return [self.image_size(pipe)]

    @abstractmethod
    def noise_shape(self, pipe: DiffusionPipeline, height: int, width: int) -> tuple[int, ...]:
        """Shape of one sample's noise, as the pipeline takes it in `latents`.

        Raises:
            ValueError: if images of this height and width cannot be generated.
        """

    def text_width(self, pipe: DiffusionPipeline) -> int:
        """Channels of the token states that `text_states` returns."""
        return getattr(pipe, self.backbone_name).config[self.text_width_name]

    def text_states(self, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        """Token states [B, L, C] of the prompts, and a mask [B, L] that is False (or 0) for padding; None without."""
        return conditioning["prompt_embeds"], None

    def to_spatial(self, noise: Tensor, height: int, width: int, pipe: DiffusionPipeline) -> Tensor:
        """Noise [B, *noise_shape] as an image [B, C, h, w]; the noise of most pipelines is one already."""
        return noise

    def from_spatial(self, spatial: Tensor) -> Tensor:
        """The inverse of `to_spatial`."""
        return spatial

    def check_steps(self, pipe: DiffusionPipeline, steps: int) -> None:
        """Raises:
        ValueError: if the pipeline's scheduler has no schedule of that many steps.
        """
        limit = pipe.scheduler.config.get("num_train_timesteps")
        if limit is not None and steps > limit:
            scheduler = type(pipe.scheduler).__name__
            raise ValueError(f"steps must be at most {limit}, the timesteps of {scheduler}, not {steps}.")

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        """The tokenizers whose vocabulary and length limit the prompts."""
        return [pipe.tokenizer]

    def max_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Number of tokens, special ones included, after which prompts are cut."""
        return tokenizer.model_max_length if self.max_sequence_length is None else self.max_sequence_length

    def encoding_settings(self) -> dict[str, Any]:
        """The options on which `encode` depends, with their values: all of them where the class does not say which."""
        # Of the two, whichever is defined nearer to this class: what a parent says does not hold for another `encode`.
        defined = next(vars(cls) for cls in type(self).__mro__ if {"encode", "encoding_options"} & vars(cls).keys())
        names = defined.get("encoding_options")
        return {name: value for name, value in vars(self).items() if names is None or name in names}

    @abstractmethod
    def encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> Conditioning:
        """Conditioning of B prompts, batch first."""

    def call_arguments(self, pipe: DiffusionPipeline, conditioning: Conditioning, steps: int) -> dict[str, Any]:
        """Keyword arguments of the pipeline's call: the conditioning and the family's own, like guidance."""
        return dict(conditioning)

    @abstractmethod
    def first_step(self, pipe: DiffusionPipeline) -> FirstStep:
        """How the backbone is called at pure noise; asked once.

        Raises:
            ValueError: if the pipeline's schedule does not start at pure noise.
        """

    @abstractmethod
    def call_backbone(self, pipe: DiffusionPipeline, backbone: nn.Module, inputs: BackboneInputs) -> Tensor:
        """Raw output [B, *noise_shape] of `backbone`, which is the pipeline's or a copy of it.

        Args:
            pipe: the pipeline.
            backbone: the network to call.
            inputs: what it is called with.
        """

    def decode(self, pipe: DiffusionPipeline, latents: Tensor, height: int, width: int) -> Tensor:
        """Images [B, 3, H, W], nominally in [-1, 1], of the latents the pipeline returns; differentiable.

        Must do what the pipeline does after its last step. This one is for pipelines that only undo the scaling.
        """
        return pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
