"""Any few-step diffusers pipeline as a frozen, differentiable generator."""

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from hn.generators.assemble import Component, FusedLora, replace_scheduler
from hn.generators.base import Conditioning, Generator
from hn.generators.families import Family, resolve_family
from hn.generators.families.base import FirstStep, describe_untrained_size
from hn.generators.frozen import frozen_view
from hn.generators.pipeline_files import PipelineFiles
from hn.generators.vocabulary import require_known_words
from hn.pretrained import parse_dtype
from hn.prompt_cache import PromptCache

log = logging.getLogger(__name__)


class DiffusersGenerator(Generator):
    """Runs a diffusers pipeline as it is: its own sampling loop, scheduler and autoencoder, with gradients.

    A pipeline's `__call__` is wrapped in `torch.no_grad`; the function underneath is its own differentiable sampler.
    Images equal those of the stock pipeline bit for bit, at any number of steps.

    Args:
        pretrained: Hub id or local folder of a pipeline.
        revision: branch, tag or commit on the Hub.
        variant: variant of the weight files, like "fp16".
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        steps: number of sampling steps when `generate` is not told.
        height: of the images in pixels; the pipeline's default if not given.
        width: likewise.
        family: the pipeline's facts, as a class path or an instance; found by the pipeline's class if not given.
        scheduler: class path of another scheduler, like "diffusers.LCMScheduler"; it gets the old one's configuration.
        scheduler_options: entries of the scheduler's configuration to change.
        components: networks that take the place of the pipeline's own, by name, like another UNet.
        fuse_loras: LoRAs to add to the weights.
        gradient_checkpointing: recompute activations of backbone and decoder in the backward pass, to save memory.
        strict_vocabulary: refuse prompts with words that are not in the tokenizer's vocabulary; for generators with a
            small, word-level vocabulary.
        prompt_cache_size: number of prompts whose conditioning is kept, on the generator's device.
        encode_batch_size: most prompts encoded in one call of the text encoder. With 1 a prompt's conditioning does not
            depend, to the last bit, on the prompts that happen to be new with it.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument does not fit the pipeline.
    """

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str = "float32",
        steps: int = 1,
        height: int | None = None,
        width: int | None = None,
        family: Family | str | None = None,
        scheduler: str | None = None,
        scheduler_options: dict[str, Any] | None = None,
        components: dict[str, Component] | None = None,
        fuse_loras: list[FusedLora] | None = None,
        gradient_checkpointing: bool = False,
        strict_vocabulary: bool = False,
        prompt_cache_size: int = 1024,
        encode_batch_size: int = 64,
    ):
        super().__init__()
        files = PipelineFiles.find(
            pretrained, revision, variant, parse_dtype(dtype), components or {}, fuse_loras or ()
        )
        family = resolve_family(family, files.index["_class_name"])
        # A dry run of everything but the weights, which may be many gigabytes.
        self.from_pipeline(
            files.outline(family), steps, height, width, family, scheduler, scheduler_options,
            prompt_cache_size=prompt_cache_size, encode_batch_size=encode_batch_size,
        )  # fmt: skip
        pipe = files.load(family)
        self._set_up(
            pipe, pretrained, revision, family, steps, height, width, scheduler, scheduler_options, strict_vocabulary,
            PromptCache(prompt_cache_size), encode_batch_size,
        )  # fmt: skip
        self.freeze()
        self._warn_of_untrained_size()
        if gradient_checkpointing:
            self.enable_gradient_checkpointing()

    @classmethod
    def outline(
        cls,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str = "float32",
        steps: int = 1,
        height: int | None = None,
        width: int | None = None,
        family: Family | str | None = None,
        scheduler: str | None = None,
        scheduler_options: dict[str, Any] | None = None,
        components: dict[str, Component] | None = None,
        fuse_loras: list[FusedLora] | None = None,
        gradient_checkpointing: bool = False,
        strict_vocabulary: bool = False,
        prompt_cache_size: int = 1024,
        encode_batch_size: int = 64,
    ) -> "DiffusersGenerator":
        """The generator without weights and text encoders, on the meta device: for checks before weights are loaded.

        Takes the arguments of the class, and raises what it raises, apart from what shows in the weights alone.
        """
        files = PipelineFiles.find(
            pretrained, revision, variant, parse_dtype(dtype), components or {}, fuse_loras or ()
        )
        family = resolve_family(family, files.index["_class_name"])
        outline = cls.from_pipeline(
            files.outline(family), steps, height, width, family, scheduler, scheduler_options, gradient_checkpointing,
            strict_vocabulary, prompt_cache_size, encode_batch_size,
        )  # fmt: skip
        outline.name, outline.revision = pretrained, revision
        return outline

    @classmethod
    def from_pipeline(
        cls,
        pipe: DiffusionPipeline,
        steps: int = 1,
        height: int | None = None,
        width: int | None = None,
        family: Family | str | None = None,
        scheduler: str | None = None,
        scheduler_options: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        strict_vocabulary: bool = False,
        prompt_cache_size: int = 1024,
        encode_batch_size: int = 64,
    ) -> Self:
        """A generator around a pipeline in memory, which stays as it is; arguments as for the class.

        The values of its weights are shared, so that they are in memory once; all else is a copy: networks (frozen and
        in eval mode), scheduler and settings. Moving the generator does not move the pipeline, nor the other way round:
        move the pipeline first.

        Raises:
            ValueError: if an argument does not fit the pipeline, or its networks are offloaded by accelerate.
        """
        self = cls.__new__(cls)
        Generator.__init__(self)
        given, pipe = pipe, copy.copy(pipe)
        if any(hasattr(module, "_hf_hook") for module in _modules(given)):
            raise ValueError(
                "The pipeline is offloaded (enable_model_cpu_offload and the like): its networks move while they run, "
                "and a view of them would not. Make the generator before, or call pipe.remove_all_hooks() first."
            )
        for component, network in given.components.items():
            if isinstance(network, nn.Module):
                setattr(pipe, component, frozen_view(network))
        family = resolve_family(family, type(pipe).__name__)
        name = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
        self._set_up(
            pipe, name, None, family, steps, height, width, scheduler, scheduler_options, strict_vocabulary,
            PromptCache(prompt_cache_size), encode_batch_size,
        )  # fmt: skip
        self.freeze()
        self._warn_of_untrained_size()
        if gradient_checkpointing:
            self.enable_gradient_checkpointing()
        return self

    def with_backbone(self, backbone: nn.Module) -> "DiffusersGenerator":
        """A generator with another backbone, for example a fine-tuned copy, that shares everything else with this one.

        The new backbone is taken as it is: if some of its parameters take gradients, images are differentiable in them.
        """
        pipe = copy.copy(self.pipe)
        setattr(pipe, self.family.backbone_name, backbone)
        other = DiffusersGenerator.__new__(DiffusersGenerator)
        Generator.__init__(other)
        other._set_up(
            pipe, self.name, self.revision, self.family, self.steps, self.height, self.width, None, None,
            self.strict_vocabulary, self._prompt_cache, self.encode_batch_size,
        )  # fmt: skip
        return other.eval()

    def _set_up(
        self,
        pipe: DiffusionPipeline,
        name: str,
        revision: str | None,
        family: Family,
        steps: int,
        height: int | None,
        width: int | None,
        scheduler: str | None,
        scheduler_options: dict[str, Any] | None,
        strict_vocabulary: bool,
        prompt_cache: PromptCache[Conditioning],
        encode_batch_size: int,
    ) -> None:
        family.check(pipe)
        if steps < 1 or encode_batch_size < 1:
            raise ValueError(f"steps ({steps}) and encode_batch_size ({encode_batch_size}) must be at least 1.")
        # A shallow copy: our scheduler and progress bar settings stay out of the pipeline we were given.
        pipe = copy.copy(pipe)
        replace_scheduler(pipe, scheduler, scheduler_options)
        pipe.set_progress_bar_config(disable=True)
        default_height, default_width = family.image_size(pipe)

        self.pipe = pipe
        self.family = family
        self.name = name
        self.revision = revision
        self.steps = steps
        self.height = default_height if height is None else height
        self.width = default_width if width is None else width
        self.noise_shape = family.noise_shape(pipe, self.height, self.width)
        self.last_layer = family.last_layer
        self.strict_vocabulary = strict_vocabulary
        self.encode_batch_size = encode_batch_size
        self._prompt_cache = prompt_cache
        self._sampler = inspect.unwrap(type(pipe).__call__)
        self._warned_of_long_prompts = False
        # The pipeline is no nn.Module: register its networks, so that they move and are counted with this one.
        self.components = nn.ModuleDict({k: v for k, v in pipe.components.items() if isinstance(v, nn.Module)})

    @property
    def backbone(self) -> nn.Module:
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
        if self.pipe.vae._supports_gradient_checkpointing:
            self.pipe.vae.enable_gradient_checkpointing()
        else:
            log.info("%s has no gradient checkpointing; its activations are kept.", type(self.pipe.vae).__name__)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of B prompts, on the generator's device. Prompts seen lately are not encoded again.

        Raises:
            ValueError: if there are no prompts, or with `strict_vocabulary` if a prompt has unknown words.
        """
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"encode takes a list of one or more prompts, not {prompts!r}.")
        samples = self._prompt_cache.get(prompts, self._encode_new)
        return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts with words outside the vocabulary, with `strict_vocabulary`; an outline has no vocabulary.

        Raises:
            ValueError: names the words, and the nearest ones that are known.
        """
        if self.strict_vocabulary and not self.is_outline:
            for tokenizer in self.family.tokenizers(self.pipe):
                for prompt in prompts:
                    require_known_words(tokenizer, prompt)

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

    def _encode_new(self, prompts: list[str]) -> list[Conditioning]:
        self.check_prompts(prompts)
        for tokenizer in self.family.tokenizers(self.pipe):
            for prompt in prompts:
                self._warn_if_too_long(tokenizer, prompt)
        samples: list[Conditioning] = []
        for start in range(0, len(prompts), self.encode_batch_size):
            batch = prompts[start : start + self.encode_batch_size]
            encoded = self.family.encode(self.pipe, batch, self.device)
            # Cloned: a view would keep the whole batch alive as long as one of its prompts is cached.
            samples += [{k: v[i : i + 1].clone() for k, v in encoded.items()} for i in range(len(batch))]
        return samples

    def _warn_if_too_long(self, tokenizer: Any, prompt: str) -> None:
        if self._warned_of_long_prompts:
            return
        length, window = len(tokenizer(prompt, verbose=False).input_ids), self.family.max_tokens(tokenizer)
        if length > window:
            self._warned_of_long_prompts = True
            log.warning(
                "A prompt of %d tokens is cut to the %d that the text encoder takes; its end does not count: %r "
                "(said once, there may be others)",
                length,
                window,
                prompt,
            )

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
    ) -> Tensor:
        """The latents that the pipeline's sampler makes of the noise; arguments as for `generate`.

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
            **self.family.call_arguments(self.pipe, conditioning, steps),
        )[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of the latents that `denoise` returns, differentiable."""
        images = self.family.decode(self.pipe, latents, self.height, self.width)
        return (images / 2 + 0.5).clamp(0, 1)

    @cached_property
    def _first_step(self) -> FirstStep:
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
        start = self._first_step
        model_input = (noise * start.input_scale).to(self.device, self.dtype)
        # Filled on the device: no copy from the host, nothing to wait for.
        timestep = torch.full(noise.shape[:1], start.timestep, dtype=torch.float32, device=self.device)
        return self.family.call_backbone(
            self.pipe, backbone, model_input, timestep, conditioning, self.height, self.width
        )

    def _check(self, noise: Tensor, conditioning: Conditioning) -> None:
        if tuple(noise.shape[1:]) != tuple(self.noise_shape):
            expected = ", ".join(map(str, self.noise_shape))
            raise ValueError(f"noise must have shape [B, {expected}], not {list(noise.shape)}.")
        for name, tensor in conditioning.items():
            if len(tensor) != len(noise):
                raise ValueError(f"{name} is for {len(tensor)} prompts, but there are {len(noise)} noise samples.")

    def _apply(self, fn, recurse: bool = True):  # what .to(), .cuda() and .half() go through
        self._prompt_cache.clear()
        return super()._apply(fn, recurse)


def _modules(pipe: DiffusionPipeline) -> Iterator[nn.Module]:
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            yield from component.modules()
