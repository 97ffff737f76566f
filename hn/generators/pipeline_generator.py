"""A diffusers pipeline in memory as a frozen, differentiable generator."""

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hn.generators.assemble import replace_scheduler
from hn.generators.base import Conditioning, Generator
from hn.generators.families import Family, resolve_family
from hn.generators.families.base import BackboneInputs, FirstStep, describe_untrained_size
from hn.generators.offload import OnCpu, take_out
from hn.generators.prompt_encoder import PromptEncoder
from hn.generators.tokens import without_token_ids
from hn.utils.copies import frozen_view
from hn.utils.layers import compile_layers, require_compile
from hn.utils.private.accelerate import is_offloaded
from hn.utils.private.torch import ApplyHook
from hn.utils.quantisation import Quantisation, quantise_linear_layers, require_torchao

log = logging.getLogger(__name__)


class PipelineGenerator(ApplyHook, Generator):
    """Runs a diffusers pipeline as it is: its own sampling loop, scheduler and autoencoder, with gradients.

    A pipeline's `__call__` is wrapped in `torch.no_grad`; the function underneath is its own differentiable sampler.
    Images equal those of the stock pipeline at any number of steps: bit for bit if its weights take no gradients, else
    up to rounding, for PyTorch runs other CPU kernels then.

    The pipeline that is given stays as it is. The values of its weights are shared, so that they are in memory once;
    all else is a copy: networks (frozen and in eval mode), scheduler and settings. Moving the generator does not move
    the pipeline, nor the other way round: move the pipeline first.

    Args:
        pipe: the pipeline.
        steps: number of sampling steps when `generate` is not told.
        height: of the images in pixels; the pipeline's default if not given.
        width: likewise.
        family: the pipeline's facts, as a class path or an instance; found by the pipeline's class if not given.
        scheduler: class path of another scheduler, like "diffusers.LCMScheduler"; it gets the old one's configuration.
        scheduler_options: entries of the scheduler's configuration to change.
        gradient_checkpointing: recompute activations of backbone and decoder in the backward pass, to save memory.
        decoder_tiling: decode images larger than the autoencoder's tiles tile by tile, as diffusers does it: less
            memory at 1024 pixels and more, slightly other images where tiles overlap.
        channels_last: keep the weights of convolutions with the channels last, which GPUs' kernels for UNets are
            faster with.
        compile: run backbone and decoder through `torch.compile`; the first call of each size takes its time.
        quantise: "int8" for int8 weights in the linear layers of the backbone (`hn.utils.quantisation`): half of
            bfloat16's memory, and slightly other images. A LoRA cannot be trained on them. Needs `hn[quantise]`.
        strict_vocabulary: refuse prompts with words that are not in the tokenizer's vocabulary; for generators with a
            small, word-level vocabulary.
        offload_text_encoders: keep text encoders on the CPU, and copy them to the device while prompts are encoded that
            are not remembered. Good where prompts repeat or few are encoded, as in `hn generate`.
        prompt_cache_size: number of prompts whose conditioning is kept, on the generator's device.
        encode_batch_size: most prompts encoded in one call of the text encoder. With 1 a prompt's conditioning does not
            depend, to the last bit, on the prompts that happen to be new with it.

    Raises:
        ImportError: if `quantise` is given and torchao is not installed.
        ValueError: if an argument does not fit the pipeline or this machine, or its networks are offloaded by
            accelerate.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        steps: int = 1,
        height: int | None = None,
        width: int | None = None,
        family: Family | str | None = None,
        scheduler: str | None = None,
        scheduler_options: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        decoder_tiling: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        quantise: Quantisation | None = None,
        strict_vocabulary: bool = False,
        offload_text_encoders: bool = False,
        prompt_cache_size: int = 1024,
        encode_batch_size: int = 64,
    ):
        super().__init__()
        family = resolve_family(family, type(pipe).__name__)
        family.check(pipe)
        if steps < 1:
            raise ValueError(f"steps ({steps}) must be at least 1.")
        default_height, default_width = family.image_size(pipe)
        self.family = family
        self.name = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
        self.revision: str | None = None
        self.steps = steps
        self.height = default_height if height is None else height
        self.width = default_width if width is None else width
        self.noise_shape = family.noise_shape(pipe, self.height, self.width)
        self.last_layer = family.last_layer
        self.gradient_checkpointing = gradient_checkpointing
        self.decoder_tiling, self.channels_last, self.compile_networks = decoder_tiling, channels_last, compile
        if decoder_tiling and not hasattr(pipe.vae, "enable_tiling"):
            raise ValueError(f"decoder_tiling: a {type(pipe.vae).__name__} cannot decode tile by tile.")
        if compile:
            require_compile()
        if quantise is not None:
            require_torchao()
        self.quantise = quantise
        self.offload_text_encoders, self.text_encoders = offload_text_encoders, OnCpu()
        self.prompt_cache_size = prompt_cache_size
        self._prompts = PromptEncoder(family, strict_vocabulary, prompt_cache_size, encode_batch_size)
        self._sampler = inspect.unwrap(type(pipe).__call__)

        view = frozen_pipeline(pipe)
        replace_scheduler(view, scheduler, scheduler_options)
        self._own(view)

    def _own(self, pipe: DiffusionPipeline) -> None:
        """Run `pipe`, which is nobody else's; it is changed as the arguments say."""
        pipe.set_progress_bar_config(disable=True)
        if self.offload_text_encoders:
            pipe, self.text_encoders = take_out(pipe, self.family.text_parts)
            self._prompts.offloaded = self.text_encoders
        self._run(pipe)
        self.freeze()
        if self.gradient_checkpointing:
            self.enable_gradient_checkpointing()
        if self.decoder_tiling:
            pipe.vae.enable_tiling()
        if self.quantise is not None:
            quantise_linear_layers(self.backbone)
        if not self.is_meta:
            if self.channels_last:
                self.components.to(memory_format=torch.channels_last)
            if self.compile_networks:
                compile_layers([self.backbone, pipe.vae.decoder])
            self._warn_of_untrained_size()

    def _run(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        # The pipeline is no nn.Module: register its networks, so that they move and are counted with this one.
        self.components = nn.ModuleDict({k: v for k, v in pipe.components.items() if isinstance(v, nn.Module)})

    def with_backbone(self, backbone: nn.Module) -> Self:
        """A generator with another backbone, for example a fine-tuned copy, that shares everything else with this one.

        The new backbone is taken as it is: if some of its parameters take gradients, images are differentiable in them.
        """
        shared = (self.pipe, self.family, self._prompts, *self.components.values(), self.text_encoders)
        other = copy.deepcopy(self, memo={id(part): part for part in shared})
        pipe = copy.copy(self.pipe)
        setattr(pipe, self.family.backbone_name, backbone)
        other._run(pipe)
        return other.eval()

    @property
    def text_width(self) -> int:
        return self.family.text_width(self.pipe)

    def text_states(self, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        return self.family.text_states(conditioning)

    @property
    def token_count(self) -> int:
        return len(self._tokenizer)

    def give_token_ids(self) -> None:
        self._prompts.give_token_ids(self._tokenizer)

    def tokens(self, prompts: Sequence[str]) -> Conditioning:
        """What `encode` gives of the prompts' tokens, on the CPU: nothing before `give_token_ids`."""
        return self._prompts.tokens(prompts)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = getattr(self.pipe, self.family.tokens_from, None) or self._load_tokenizer()
        if tokenizer is None:
            raise ValueError(
                f"The pipeline has no {self.family.tokens_from}, so the generator cannot give the tokens of prompts."
            )
        return tokenizer

    def _load_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """One that the pipeline was loaded without."""
        return None

    @cached_property
    def spatial_shape(self) -> tuple[int, int, int]:
        noise = torch.empty((1, *self.noise_shape), device="meta")
        channels, height, width = self.to_spatial(noise).shape[1:]
        return channels, height, width

    def to_spatial(self, noise: Tensor) -> Tensor:
        return self.family.to_spatial(noise, self.height, self.width, self.pipe)

    def from_spatial(self, spatial: Tensor) -> Tensor:
        return self.family.from_spatial(spatial)

    @property
    def backbone(self) -> ModelMixin:
        return self.components[self.family.backbone_name]

    @property
    def latents_dtype(self) -> torch.dtype:
        """The data type in which the pipeline takes its latents."""
        return self.family.latents_dtype or self.dtype

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations of backbone and decoder in the backward pass.

        Independent of the training mode: everything stays in eval mode, so the recomputed function is the same one.
        Some autoencoders (AutoencoderDC, AutoencoderKLQwenImage) cannot do it; theirs are kept, and the log says so.
        """
        self.backbone.enable_gradient_checkpointing()
        try:
            self.pipe.vae.enable_gradient_checkpointing()
        except ValueError:  # the autoencoder does not support it
            log.info("%s has no gradient checkpointing; its activations are kept.", type(self.pipe.vae).__name__)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of B prompts, on the generator's device. Prompts seen lately are not encoded again.

        Raises:
            ValueError: if there are no prompts, or with `strict_vocabulary` if a prompt has unknown words.
        """
        return self._prompts.encode(self.pipe, prompts, self.device)

    def prefetch(self, prompts: Sequence[str]) -> None:
        """Begin to read the conditioning of prompts that are not in memory from files, if it is to come from there."""
        self._prompts.prefetch(prompts, self.device)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts with words outside the vocabulary, with `strict_vocabulary`; on the meta device, none.

        Raises:
            ValueError: names the words, and the nearest ones that are known.
        """
        if not self.is_meta:
            self._prompts.check(self.pipe, prompts)

    def check_steps(self, steps: int | None) -> None:
        """Refuse numbers of sampling steps that the scheduler cannot do.

        Raises:
            ValueError: says what it can do.
        """
        super().check_steps(steps)
        self.family.check_steps(self.pipe, self.steps if steps is None else steps)

    def _warn_of_untrained_size(self) -> None:
        warning = describe_untrained_size(self.height, self.width, self.family.trained_sizes(self.pipe))
        if warning is not None:
            log.warning(warning)

    def generate(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        steps: int | None = None,
        rng: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], in the generator's data type, differentiable in the noise.

        Args:
            noise: [B, *noise_shape], distributed as N(0, I).
            conditioning: what `encode` returned for the B prompts.
            steps: number of sampling steps, `self.steps` by default.
            rng: source of the noise that some schedulers draw after the first step, or one source per sample.

        Raises:
            ValueError: if the shapes do not fit, or `steps` is below 1 or above the scheduler's number of timesteps.
        """
        return self.decode(self.denoise(noise, conditioning, steps, rng))

    def denoise(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        steps: int | None = None,
        rng: torch.Generator | list[torch.Generator] | None = None,
        **options: Any,
    ) -> Tensor:
        """The latents that the pipeline's sampler makes of the noise; arguments as for `generate`, and `options` of the
        pipeline's call.

        Of shape [B, *noise_shape] in most families; some pipelines unpack them before they return them.
        """
        self._check(noise, conditioning)
        steps = self.steps if steps is None else steps
        self.check_steps(steps)
        return self._sampler(
            self.pipe,
            latents=noise.to(self.device, self.latents_dtype),
            num_inference_steps=steps,
            height=self.height,
            width=self.width,
            generator=rng,
            output_type="latent",
            return_dict=False,
            **self.family.call_arguments(self.pipe, without_token_ids(conditioning), steps),
            **options,
        )[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of the latents that `denoise` returns, differentiable."""
        images = self.family.decode(self.pipe, latents, self.height, self.width)
        return (images / 2 + 0.5).clamp(0, 1)

    @cached_property
    def start(self) -> FirstStep:
        """What the backbone is called with at pure noise."""
        return self.family.first_step(self.pipe)

    def first_step(self, backbone: nn.Module, noise: Tensor, conditioning: Conditioning) -> Tensor:
        """Raw output [B, *noise_shape] of `backbone` at pure noise and the first timestep.

        Args:
            backbone: this generator's backbone, or a copy of it.
            noise: [B, *noise_shape], distributed as N(0, I); scaled here as the scheduler says.
            conditioning: what `encode` returned for the B prompts.

        Raises:
            ValueError: if the shapes do not fit, or the schedule does not start at pure noise.
        """
        self._check(noise, conditioning)
        start = self.start
        sample = (noise * start.input_scale).to(self.device, self.dtype)
        # Filled on the device: no copy from the host, nothing to wait for.
        timestep = torch.full(noise.shape[:1], start.timestep, dtype=torch.float32, device=self.device)
        inputs = BackboneInputs(sample, timestep, conditioning, self.height, self.width)
        return self.family.call_backbone(self.pipe, backbone, inputs)

    def _check(self, noise: Tensor, conditioning: Conditioning) -> None:
        if tuple(noise.shape[1:]) != tuple(self.noise_shape):
            expected = ", ".join(map(str, self.noise_shape))
            raise ValueError(f"noise must have shape [B, {expected}], not {list(noise.shape)}.")
        for name, tensor in conditioning.items():
            if tensor.shape[0] != noise.shape[0]:  # not len(): it would fix the batch size where f is exported
                raise ValueError(f"{name} is for {len(tensor)} prompts, but there are {len(noise)} noise samples.")

    def before_apply(self, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        self._prompts.clear()  # cached values are of the device and data type of before
        return convert


def frozen_pipeline(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A shallow copy of a pipeline over frozen views of its networks; see `frozen_view`.

    Raises:
        ValueError: if its networks are offloaded by accelerate.
    """
    view = copy.copy(pipe)
    for name, network in pipe.components.items():
        if isinstance(network, nn.Module):
            if is_offloaded(network):
                raise ValueError(
                    "The pipeline is offloaded (enable_model_cpu_offload and the like): its networks move while they "
                    "run, and a view of them would not. Make the generator before, or call pipe.remove_all_hooks() "
                    "first."
                )
            setattr(view, name, frozen_view(network))
    return view
