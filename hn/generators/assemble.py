"""Pipelines put together from several places: another UNet, another autoencoder, LoRAs to fuse, another scheduler."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

from hn.utils.class_path import import_class
from hn.utils.hub import explain_missing, locate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Component:
    """A network that takes the place of the pipeline's own.

    Attributes:
        pretrained: Hub id or local folder.
        subfolder: where in it the network is.
        revision: branch, tag or commit on the Hub.
        variant: variant of the weight files, like "fp16".
        file: a safetensors file with all weights of the network, for repositories without its configuration; the
            pipeline's own configuration is used then.
    """

    pretrained: str
    subfolder: str | None = None
    revision: str | None = None
    variant: str | None = None
    file: str | None = None

    @property
    def files(self) -> str | None:
        """What of the repository is needed: a file, or a pattern; None for all of it."""
        if self.file is not None:
            return f"{self.subfolder}/{self.file}" if self.subfolder else self.file
        return f"{self.subfolder}/*" if self.subfolder else None

    def locate(self) -> str:
        """What to load from; raises FileNotFoundError if there are no such weights, before anything heavy."""
        name = self.file or "config.json"
        marker = f"{self.subfolder}/{name}" if self.subfolder else name
        return locate(self.pretrained, marker, self.revision, self.variant, self.files)

    def explain_missing(self) -> AbstractContextManager[None]:
        """Says what to do where loading finds files missing; see `hn.utils.hub.explain_missing`."""
        return explain_missing(self.pretrained, self.revision, self.variant, self.files)


@dataclass(frozen=True)
class FusedLora:
    """A LoRA that is added to the weights of the pipeline's networks for good.

    Attributes:
        pretrained: Hub id or local folder.
        file: the safetensors file in it.
        scale: what the LoRA is multiplied with.
        revision: branch, tag or commit on the Hub.
    """

    pretrained: str
    file: str
    scale: float = 1.0
    revision: str | None = None

    def locate(self) -> str:
        """What to load from; raises FileNotFoundError if there is no such file, before anything heavy."""
        return locate(self.pretrained, self.file, self.revision, files=self.file)


def locate_components(components: Mapping[str, Component], index: Mapping[str, Any]) -> dict[str, str]:
    """What to load each network from, before the first one, which may be gigabytes, is loaded.

    Args:
        components: what to load, by the pipeline's names.
        index: the pipeline's `model_index.json`.

    Raises:
        FileNotFoundError: if weights are missing; says how to get them.
        ValueError: if the pipeline has no component of that name.
    """
    for name in components:
        if not isinstance(index.get(name), list | tuple) or index[name][0] != "diffusers":
            own = [key for key, value in index.items() if isinstance(value, list | tuple) and value[0] == "diffusers"]
            raise ValueError(f"{index['_class_name']} has no network {name!r} of diffusers; it has {', '.join(own)}.")
    return {name: component.locate() for name, component in components.items()}


def load_components(
    components: Mapping[str, Component],
    found: Mapping[str, str],
    pipeline: str,
    index: Mapping[str, Any],
    dtype: torch.dtype,
    **options: Any,
) -> dict[str, ModelMixin]:
    """The networks by name, for the `from_pretrained` of a pipeline.

    Args:
        components: what to load, by the pipeline's names.
        found: what `locate_components` gave.
        pipeline: folder or Hub id of the pipeline.
        index: the pipeline's `model_index.json`.
        dtype: data type of the weights.
        options: for loading the pipeline's own configurations, like `revision`.

    Raises:
        FileNotFoundError: if weights are missing; says how to get them.
        ValueError: if the weights do not fit the pipeline.
    """
    loaded = {}
    for name, component in components.items():
        own_class = getattr(diffusers, index[name][1])
        if component.file is None:
            with component.explain_missing():
                loaded[name] = own_class.from_pretrained(
                    found[name],
                    subfolder=component.subfolder,
                    revision=component.revision,
                    variant=component.variant,
                    dtype=dtype,
                )
        else:
            config = own_class.load_config(pipeline, subfolder=name, **options)
            loaded[name] = _from_file(own_class.from_config(config).to(dtype), component, found[name])
    return loaded


def fuse(pipe: DiffusionPipeline, loras: Sequence[FusedLora]) -> None:
    """Add LoRAs to the weights of `pipe`, in place; no adapter layers remain."""
    for lora in loras:
        with explain_missing(lora.pretrained, lora.revision, files=lora.file):
            pipe.load_lora_weights(lora.locate(), weight_name=lora.file, revision=lora.revision)
        pipe.fuse_lora(lora_scale=lora.scale)
        pipe.unload_lora_weights()


def find_scheduler(path: str) -> type[SchedulerMixin]:
    """The scheduler's class, like "diffusers.LCMScheduler"; raises ValueError if there is none at `path`."""
    return import_class(path, SchedulerMixin)


def replace_scheduler(pipe: DiffusionPipeline, scheduler: str | None, options: Mapping[str, Any] | None) -> None:
    """A new scheduler in `pipe`: of the class path `scheduler`, else of the old one's class; with the old one's
    configuration and `options` changed in it. The log says so if the new class clips latents.

    Raises:
        ValueError: if there is no such scheduler.
    """
    scheduler_class = type(pipe.scheduler) if scheduler is None else find_scheduler(scheduler)
    stated = {**pipe.scheduler.config, **(options or {})}
    with torch.device("cpu"):  # a schedule is values, also where networks are made without
        pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config, **(options or {}))
    if pipe.scheduler.config.get("clip_sample") and "clip_sample" not in stated:
        log.warning(
            "%s clips to -1 and 1 by default, which is for pixels, and latents go beyond; set scheduler_options "
            '{"clip_sample": false} unless the generator was distilled like that.',
            scheduler_class.__name__,
        )


def _from_file(model: ModelMixin, component: Component, found: str) -> ModelMixin:
    assert component.file is not None
    path = Path(component.subfolder or "") / component.file
    with component.explain_missing():
        local = Path(found) / path
        if not local.is_file():
            local = Path(hf_hub_download(found, str(path), revision=component.revision))
    try:
        model.load_state_dict(load_file(local))
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ValueError(
            f"{local} does not hold the weights of a {type(model).__name__}: {lines[-1].strip()}"
        ) from error
    return model
