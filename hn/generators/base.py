"""What every generator offers to hypernetworks, searches and evaluations."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

# Batch-first tensors by name, for example {"prompt_embeds": [B, L, C]}; they can be concatenated and cached.
Conditioning = dict[str, Tensor]


class Generator(nn.Module, ABC):
    """A frozen generator g: noise x0 ~ N(0, I) and a prompt -> image in [0, 1].

    Its parameters take no gradients and it stays in eval mode, also when a surrounding module is set to train.

    Attributes:
        name: hub id or folder of the weights, recorded beside everything trained on top of them.
        revision: branch, tag or commit of the weights, if one was asked for.
        noise_shape: shape of one sample's noise, as the backbone sees it, for example (4, 64, 64).
        last_layer: name of the backbone's last layer, whose base output a LoRA hypernetwork drops.
        steps: number of sampling steps when `generate` is not told.
        quantise: how the backbone's weights are quantised; None if they are not.
    """

    name: str
    revision: str | None
    noise_shape: tuple[int, ...]
    last_layer: str
    steps: int
    quantise: str | None = None

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:
        """The denoising network: a UNet or a transformer."""

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Look at prompts before any work is done with them; every prompt is fine unless a generator says otherwise.

        Raises:
            ValueError: if the generator cannot take one of them; says what is wrong with it.
        """

    def check_steps(self, steps: int | None) -> None:
        """Look at a number of sampling steps (None: the generator's own) before any work is done.

        Raises:
            ValueError: if the generator cannot do that many.
        """
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}.")

    def prefetch(self, prompts: Sequence[str]) -> None:
        """Begin with what the next `encode` of these prompts would have to wait for, and return at once; does nothing
        unless a generator says otherwise."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of B prompts, on the generator's device, without gradients."""

    @abstractmethod
    def generate(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        steps: int | None = None,
        rng: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], differentiable in the noise.

        Args:
            noise: [B, *noise_shape], distributed as N(0, I).
            conditioning: what `encode` returned for the B prompts.
            steps: number of sampling steps, `self.steps` by default.
            rng: source of the noise that some schedulers draw after the first step, or one source per sample.
        """

    @abstractmethod
    def first_step(self, backbone: nn.Module, noise: Tensor, conditioning: Conditioning) -> Tensor:
        """Raw output [B, *noise_shape] of `backbone` at pure noise and the first timestep.

        `backbone` is this generator's backbone or a copy of it (a LoRA hypernetwork brings its own); the noise is
        passed as N(0, I) [B, *noise_shape] and scaled as the scheduler says.
        """

    @property
    def device(self) -> torch.device:
        """Where the backbone's weights are."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    @property
    def is_meta(self) -> bool:
        """Whether this is a generator without weights, on the meta device, for checks alone."""
        return self.device.type == "meta"

    @property
    def latents_dtype(self) -> torch.dtype:
        """The data type in which a stock pipeline of this generator takes its `latents`; the backbone's by default."""
        return self.dtype

    @property
    def text_width(self) -> int:
        """C of the states that `text_states` returns.

        Raises:
            ValueError: if the generator does not say.
        """
        raise ValueError(f"{type(self).__name__} does not say how wide its text states are.")

    def text_states(self, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        """What the backbone reads of the prompts: token states [B, L, C], and a mask [B, L] that is False (or 0) for
        padding; None if no token is masked."""
        return conditioning["prompt_embeds"], None

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one sample's noise as an image.

        Raises:
            ValueError: if the generator does not say how its noise lies in an image.
        """
        if len(self.noise_shape) != 3:
            raise ValueError(f"{type(self).__name__} does not say how noise {[*self.noise_shape]} lies in an image.")
        channels, height, width = self.noise_shape
        return channels, height, width

    def to_spatial(self, noise: Tensor) -> Tensor:
        """Noise [B, *noise_shape] as an image [B, *spatial_shape]: the same numbers in another order."""
        return noise

    def from_spatial(self, spatial: Tensor) -> Tensor:
        """The inverse of `to_spatial`: [B, *spatial_shape] -> [B, *noise_shape]."""
        return spatial

    def sample_noise(
        self, n: int, rng: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Noise x0 ~ N(0, I), [n, *noise_shape], at least float32.

        Args:
            n: number of samples.
            rng: drawn on its own device, so that a CPU generator gives the same noise everywhere; without it, the
                default random state of `device` is used.
            device: where the noise is returned, the generator's device by default.
        """
        device = torch.device(device) if device is not None else self.device
        dtype = torch.promote_types(self.dtype, torch.float32)
        drawn_on = rng.device if rng is not None else device
        return torch.randn((n, *self.noise_shape), generator=rng, dtype=dtype, device=drawn_on).to(device)

    def freeze(self) -> Self:
        """Switch gradients off for every parameter and set eval mode."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Keeps eval mode, whatever `mode` says: a frozen generator has no training mode."""
        return super().train(False)
