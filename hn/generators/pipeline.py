"""Any few-step diffusers pipeline, loaded from its files, as a frozen, differentiable generator."""

from typing import Any, Self

from diffusers import DiffusionPipeline

from hn.generators.assemble import Component, FusedLora
from hn.generators.families import Family, resolve_family
from hn.generators.pipeline_files import PipelineFiles
from hn.generators.pipeline_generator import PipelineGenerator
from hn.pretrained import parse_dtype


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
        load_weights: whether to load the weights; without them (and without text encoders) the generator is on the meta
            device and good for checks alone.
        options: all other arguments of `PipelineGenerator`: `steps`, `height`, `width`, `scheduler` and so on.

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
        family: Family | str | None = None,
        components: dict[str, Component] | None = None,
        fuse_loras: list[FusedLora] | None = None,
        load_weights: bool = True,
        **options: Any,
    ):
        files = PipelineFiles.find(
            pretrained, revision, variant, parse_dtype(dtype), components or {}, fuse_loras or ()
        )
        family = resolve_family(family, files.index["_class_name"])
        super().__init__(files.outline(family), family=family, **options)
        self.name, self.revision = pretrained, revision
        if load_weights:
            pipe = files.load(family)
            pipe.scheduler = self.pipe.scheduler
            self._own(pipe)

    @classmethod
    def outline(cls, pretrained: str, **options: Any) -> Self:
        """The generator without weights and text encoders, on the meta device: for checks before weights are loaded.

        Takes the arguments of the class, and raises what it raises, apart from what shows in the weights alone.
        """
        return cls(pretrained, load_weights=False, **options)

    @staticmethod
    def from_pipeline(pipe: DiffusionPipeline, **options: Any) -> PipelineGenerator:
        """A generator around a pipeline in memory, which stays as it is: `PipelineGenerator(pipe, **options)`."""
        return PipelineGenerator(pipe, **options)
