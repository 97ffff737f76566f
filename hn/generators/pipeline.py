"""Any few-step diffusers pipeline, loaded from its files, as a frozen, differentiable generator."""

from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from torch import nn
from transformers import PreTrainedTokenizerBase

from hn.data.encodings.files import PromptFiles
from hn.generators.assemble import Component, FusedLora
from hn.generators.encoder_fingerprint import encoder_fingerprint
from hn.generators.families import Family, resolve_family
from hn.generators.pipeline_files import PipelineFiles
from hn.generators.pipeline_generator import PipelineGenerator
from hn.generators.prompt_encoder import PromptEncoder
from hn.utils.dtype import parse_dtype


class DiffusersGenerator(PipelineGenerator):
    """A pipeline of the Hub or of a folder, perhaps put together from several places.

    All that the configuration files tell is checked before the weights, which may be many gigabytes, are loaded.

    Args:
        pretrained: Hub id or local folder of a pipeline.
        revision: branch, tag or commit on the Hub.
        variant: variant of the weight files, like "fp16".
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        family: the pipeline's facts, as a class path or an instance; found by the pipeline's class if not given.
        components: networks that take the place of the pipeline's own, by name, like another UNet.
        fuse_loras: LoRAs to add to the weights.
        cache: folder of conditioning that `hn embed` wrote, true for the user's own (HN_CONDITIONING, else
            ~/.cache/hn/conditioning). If it has some of these text encoders', with the same options, then the text
            encoders are not loaded, and only prompts that are there can be used; else they are loaded as ever.
            The commands of an experiment write what is missing before they start.
        load_weights: whether to load the weights; without them (and without text encoders) the generator is on the meta
            device and good for checks alone.
        options: all other arguments of `PipelineGenerator`: `steps`, `height`, `width`, `scheduler` and so on.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument does not fit the pipeline, or a file of conditioning is damaged.
    """

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str = "float32",
        family: Family | str | None = None,
        components: dict[str, Component] | None = None,
        fuse_loras: list[FusedLora] | None = None,
        cache: bool | str = False,
        load_weights: bool = True,
        **options: Any,
    ):
        files = PipelineFiles.find(
            pretrained, revision, variant, parse_dtype(dtype), components or {}, fuse_loras or ()
        )
        family = resolve_family(family, files.index["_class_name"])
        conditioning = None
        if cache:
            conditioning = PromptFiles(cache, encoder_fingerprint(files, family))
        # Checks come before anything is written, with no text encoders and whatever is written.
        has_conditioning = load_weights and conditioning is not None and len(conditioning) > 0
        unused = files.text_parts(family) if has_conditioning else []
        super().__init__(files.build_on_meta(family, without=unused), family=family, **options)
        self.name, self.revision = pretrained, revision
        self.files, self.conditioning = files, conditioning
        if has_conditioning:
            self._prompts.files = conditioning
        elif load_weights and conditioning is not None:
            conditioning.warn_of_absence()
        if load_weights:
            pipe = files.load(family, without=unused)
            pipe.scheduler = self.pipe.scheduler
            self._own(pipe)

    @classmethod
    def build_on_meta(cls, pretrained: str, **options: Any) -> Self:
        """The generator without weights and text encoders, on the meta device: for checks before weights are loaded.

        Takes the arguments of the class, and raises what it raises, apart from what shows in the weights alone.
        """
        return cls(pretrained, load_weights=False, **options)

    def load_prompt_encoder(self, device: torch.device) -> tuple[PromptEncoder, DiffusionPipeline]:
        """What encodes prompts as this generator does, without remembering them, and the pipeline to hand to it.

        Of the pipeline the text encoders alone are loaded, and on `device`.

        Raises:
            FileNotFoundError: if weights are missing; says how to get them.
        """
        pipe = self.files.load_text_encoders(self.family)
        for name in self.files.text_parts(self.family):
            part = getattr(pipe, name)
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval().to(device)
        own = self._prompts
        return PromptEncoder(self.family, own.strict_vocabulary, cache_size=0, batch_size=own.batch_size), pipe

    def _load_tokenizer(self) -> PreTrainedTokenizerBase | None:
        return self.files.load_tokenizer(self.family.tokens_from)

    @staticmethod
    def from_pipeline(pipe: DiffusionPipeline, **options: Any) -> PipelineGenerator:
        """A generator around a pipeline in memory, which stays as it is: `PipelineGenerator(pipe, **options)`."""
        return PipelineGenerator(pipe, **options)
