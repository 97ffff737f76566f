"""What every generator offers to hypernetworks, searches and evaluations."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Self

import torch
from torch import Tensor, nn

from hn.utils.digest import weights_digest
from hn.utils.distributed import class_of

# Batch-first tensors by name, for example {"prompt_embeds": [B, L, C]}; they can be concatenated and cached.
Conditioning = dict[str, Tensor]


class Generator(nn.Module, ABC):
    """A frozen generator g: noise x0 ~ N(0, I) and a prompt -> image in [0, 1].

    Its parameters take no gradients and it stays in eval mode, also when a surrounding module is set to train.

    A generator may be known only as a function, for example an exported program: it leaves out `backbone`, `last_layer`
    and `first_step`, which LoRA hypernetworks need and other hypernetworks do not.

    Attributes:
        name: hub id or folder of the weights, recorded beside everything trained on top of them.
        revision: branch, tag or commit of the weights, if one was asked for.
        noise_shape: shape of one sample's noise, as the backbone sees it, for example (4, 64, 64).
        last_layer: name of the backbone's last layer, whose base output a LoRA hypernetwork drops.
        steps: number of sampling steps when `generate` is not told.
        quantise: how the backbone's weights are quantised; None if they are not.
        differentiable: whether gradients of the images reach the noise. Without them a hypernetwork is trained by
            forward passes alone (`hn.training.estimators.ScoreFunction`).
    """

    name: str
    revision: str | None
    noise_shape: tuple[int, ...]
    last_layer: str = ""
    steps: int
    quantise: str | None = None
    differentiable: bool = True

    @property
    def backbone(self) -> nn.Module:
        """The denoising network: a UNet or a transformer.

        Raises:
            ValueError: if the generator has none.
        """
        raise ValueError(
            f"{type(self).__name__} has no backbone, on whose layers LoRA works: it only makes images of noise and "
            "prompts. Take a hypernetwork of its own: hn.hypernets.conv.ConvHypernet or "
            "hn.hypernets.subspace.SubspaceHypernet."
        )

    @property
    def has_backbone(self) -> bool:
        """Whether the denoising network is at hand."""
        return type(self).backbone is not Generator.backbone

    @property
    def backbone_class(self) -> str | None:
        """The name of the backbone's class, None without a backbone."""
        return class_of(self.backbone).__name__ if self.has_backbone else None

    def digest(self) -> dict[str, str]:
        """Digests of the backbone's weights by data type (`weights_digest`); none without a backbone."""
        return weights_digest(self.backbone) if self.has_backbone else {}

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
        """Images [B, 3, H, W] in [0, 1]; differentiable in the noise, if the generator is `differentiable`.

        Args:
            noise: [B, *noise_shape], distributed as N(0, I).
            conditioning: what `encode` returned for the B prompts.
            steps: number of sampling steps, `self.steps` by default.
            rng: source of the noise that some schedulers draw after the first step, or one source per sample.
        """

    def first_step(self, backbone: nn.Module, noise: Tensor, conditioning: Conditioning) -> Tensor:
        """Raw output [B, *noise_shape] of `backbone` at pure noise and the first timestep.

        `backbone` is this generator's backbone or a copy of it (a LoRA hypernetwork brings its own); the noise is
        passed as N(0, I) [B, *noise_shape] and scaled as the scheduler says.

        Raises:
            ValueError: if the generator does not say how its backbone is called.
        """
        raise ValueError(f"{type(self).__name__} does not say how its backbone is called at the first timestep.")

    @property
    def device(self) -> torch.device:
        """Where the backbone's weights are; without a backbone, the generator's own, or the CPU."""
        return self._a_weight().device

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the backbone's weights; without a backbone, of the generator's own, or float32."""
        return self._a_weight().dtype

    def _a_weight(self) -> Tensor:
        """One that tells where the generator computes, and in which data type."""
        if self.has_backbone:
            return next(self.backbone.parameters())
        own = (tensor for tensor in chain(self.parameters(), self.buffers()) if tensor.is_floating_point())
        return next(own, torch.empty(0, dtype=torch.float32, device="cpu"))

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

    @property
    def token_count(self) -> int:
        """V, the size of the vocabulary of `give_token_ids`.

        Raises:
            ValueError: if the generator has no tokenizer.
        """
        raise ValueError(f"{type(self).__name__} has no tokenizer, so it cannot give the tokens of prompts.")

    def give_token_ids(self) -> None:
        """From now on `encode` gives the prompts' tokens too: `token_ids` [B, L], int64 in [0, V), -1 where a prompt is
        over. `generate` takes them and does not read them.

        Raises:
            ValueError: if the generator has no tokenizer.
        """
        raise ValueError(f"{type(self).__name__} has no tokenizer, so it cannot give the tokens of prompts.")

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
