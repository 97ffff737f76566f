"""The files of a pipeline, perhaps put together from several places: found first, loaded when all else is right."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hn.generators.assemble import Component, FusedLora, fuse, load_components, locate_components
from hn.generators.families import Family
from hn.generators.pipeline_index import check_index, find_class
from hn.utils.hub import explain_missing, locate
from hn.utils.weights import is_without_weights

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.model")
"""Files of tokenizers, of which one has to be there."""

WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class PipelineFiles:
    """A pipeline on disk or on the Hub, with the networks that take the place of its own and the LoRAs to fuse.

    Attributes:
        pretrained: Hub id or local folder.
        revision: branch, tag or commit on the Hub.
        variant: variant of the weight files, like "fp16".
        dtype: data type of the weights in memory.
        components: networks in the place of the pipeline's own, by name.
        fuse_loras: LoRAs to add to the weights.
        found: what to load the pipeline from.
        found_components: what to load each of `components` from.
        index: `model_index.json`.
    """

    pretrained: str
    revision: str | None
    variant: str | None
    dtype: torch.dtype
    components: Mapping[str, Component]
    fuse_loras: Sequence[FusedLora]
    found: str
    found_components: Mapping[str, str]
    index: Mapping[str, Any]

    @classmethod
    def find(
        cls,
        pretrained: str,
        revision: str | None,
        variant: str | None,
        dtype: torch.dtype,
        components: Mapping[str, Component],
        fuse_loras: Sequence[FusedLora],
    ) -> Self:
        """Look for everything, load nothing.

        Raises:
            FileNotFoundError: if something is missing; says how to get it.
            ValueError: if the pipeline's index names classes that are not of diffusers or transformers, or the pipeline
                has no component of a name in `components`.
        """
        found = locate(pretrained, DiffusionPipeline.config_name, revision, variant)
        for lora in fuse_loras:
            lora.locate()
        with explain_missing(pretrained, revision, variant):
            index = check_index(DiffusionPipeline.load_config(found, revision=revision), pretrained)
        located = locate_components(components, index)
        return cls(pretrained, revision, variant, dtype, components, fuse_loras, found, located, index)

    def text_parts(self, family: Family) -> list[str]:
        """Names of the tokenizers and text encoders that the pipeline has."""
        return [name for name in family.text_parts if self.index.get(name, (None,))[0] is not None]

    def build_on_meta(self, family: Family, without: Sequence[str] = ()) -> DiffusionPipeline:
        """The pipeline without weights, from the configuration files alone: its scheduler, and its networks of
        diffusers on the meta device; no text encoders. It knows all that a family asks of a pipeline.

        Weights have to be there all the same, but for `hn.utils.weights.is_without_weights`.

        Args:
            family: the pipeline's facts.
            without: parts that are not needed, and may be missing.

        Raises:
            FileNotFoundError: if files are missing, weights among them; says how to get them.
            ValueError: if this version of diffusers has no such pipeline or network.
        """
        self._require_files(family, without)
        parts: dict[str, Any] = {}
        for name, value in self.index.items():
            if not isinstance(value, list | tuple):
                parts |= {} if name.startswith("_") else {name: value}
            elif name == "scheduler":
                with explain_missing(self.pretrained, self.revision, self.variant):
                    scheduler = find_class(value[1])
                    with torch.device("cpu"):  # a schedule is values
                        parts[name] = scheduler.from_pretrained(self.found, subfolder=name, revision=self.revision)
            elif value[0] == "diffusers" and issubclass(find_class(value[1]), ModelMixin):
                parts[name] = self._network(name, find_class(value[1]))
            else:
                parts[name] = None
        return find_class(self.index["_class_name"])(**{**parts, **family.load_options})

    def load(self, family: Family, without: Sequence[str] = ()) -> DiffusionPipeline:
        """The pipeline with its weights.

        Args:
            family: the pipeline's facts.
            without: parts that it will not have. With LoRAs to fuse, which may be for them, they are loaded and then
                dropped; else they are not read at all.

        Raises:
            FileNotFoundError: if files are missing; says how to get them.
            ValueError: if weights do not fit the network they are for.
        """
        options = {"revision": self.revision}
        absent = dict.fromkeys(without)
        with explain_missing(self.pretrained, self.revision, self.variant):
            networks = load_components(
                self.components, self.found_components, self.found, self.index, self.dtype, **options
            )
            pipe = DiffusionPipeline.from_pretrained(
                self.found,
                variant=self.variant,
                dtype=self.dtype,
                **options,
                **family.load_options,
                **networks,
                **({} if self.fuse_loras else absent),
            )
        fuse(pipe, self.fuse_loras)
        if self.fuse_loras:
            pipe.register_modules(**absent)
        return pipe

    def load_text_encoders(self, family: Family) -> DiffusionPipeline:
        """The pipeline with the weights of its text encoders alone; its other networks are on the meta device.

        With LoRAs to fuse, which may be for any of the networks, all weights are loaded.

        Raises:
            FileNotFoundError: if files are missing; says how to get them.
        """
        return self.load(family) if self.fuse_loras else self._with_tokenizers(family, {})

    def load_tokenizer(self, name: str) -> PreTrainedTokenizerBase | None:
        """One of the pipeline's tokenizers alone, None if it has no such one.

        Raises:
            FileNotFoundError: if files are missing; says how to get them.
        """
        if self.index.get(name, (None,))[0] is None:
            return None
        with explain_missing(self.pretrained, self.revision, self.variant):
            tokenizer_class = getattr(transformers, self.index[name][1])
            return tokenizer_class.from_pretrained(self.found, subfolder=name, revision=self.revision)

    def build_text_encoders_on_meta(self, family: Family) -> DiffusionPipeline:
        """The pipeline with its tokenizers; all its networks, text encoders among them, are on the meta device.

        Raises:
            FileNotFoundError: if files are missing; says how to get them.
        """
        encoders = {}
        for name in self.text_parts(family):
            kind: Any = getattr(transformers, self.index[name][1], None)
            is_network = isinstance(kind, type) and issubclass(kind, PreTrainedModel)
            if is_network:
                with explain_missing(self.pretrained, self.revision, self.variant):
                    config = kind.config_class.from_pretrained(self.found, subfolder=name, revision=self.revision)
                with torch.device("meta"):
                    encoders[name] = nn.Module.to(kind(config), self.dtype)
        return self._with_tokenizers(family, encoders)

    def _with_tokenizers(self, family: Family, text_encoders: dict[str, nn.Module]) -> DiffusionPipeline:
        """The pipeline with these text encoders, or its own, loaded; its other networks are on the meta device."""
        others = self.build_on_meta(family).components
        networks = {name: part for name, part in others.items() if isinstance(part, nn.Module)} | text_encoders
        with explain_missing(self.pretrained, self.revision, self.variant):
            return DiffusionPipeline.from_pretrained(
                self.found,
                variant=self.variant,
                dtype=self.dtype,
                revision=self.revision,
                **family.load_options,
                **networks,
            )

    def _network(self, name: str, network_class: type[ModelMixin]) -> ModelMixin:
        component = self.components.get(name)
        if component is None or component.file is not None:  # a file of weights comes without a configuration
            with explain_missing(self.pretrained, self.revision, self.variant):
                config = network_class.load_config(self.found, subfolder=name, revision=self.revision)
        else:
            with component.explain_missing():
                config = network_class.load_config(
                    self.found_components[name], subfolder=component.subfolder, revision=component.revision
                )
        with torch.device("meta"):
            # Not the network's own `to`, which warns of layers that are to stay in float32: here are no values.
            return nn.Module.to(network_class.from_config(config), self.dtype)

    def _require_files(self, family: Family, without: Sequence[str]) -> None:
        """Refuse a folder, or an interrupted download, that lacks files which are noticed late, or not at all:
        libraries make an empty tokenizer where there is none.
        """
        folder = Path(self.found)
        if not folder.is_dir():
            return  # the Hub has them
        parts = [name for name, value in self.index.items() if isinstance(value, list | tuple) and value[0] is not None]
        unused = {name for name, value in family.load_options.items() if value is None} | set(self.components)
        unused |= set(without)
        weights = not is_without_weights()
        missing = [file for name in parts if name not in unused for file in missing_files(folder, name, weights)]
        variants = (f"*/*.{self.variant}{mark}*" for mark in ".-")
        if (
            weights
            and self.variant is not None
            and not any(path.is_file() for mark in variants for path in folder.glob(mark))
        ):
            missing.append(f"*.{self.variant}.safetensors in any of its folders (variant {self.variant!r})")
        if missing:
            with explain_missing(self.pretrained, self.revision, self.variant):
                raise FileNotFoundError(f"{folder} is incomplete; it has no {', no '.join(missing)}.")


def missing_files(folder: Path, name: str, weights: bool = True) -> list[str]:
    """What the part `name` of a pipeline lacks, of the files without which it cannot be what it was.

    Every kind of part has a configuration; a tokenizer has a vocabulary besides, and a network weights: all the parts
    of them that an index of weights names.

    Args:
        folder: of the pipeline.
        name: the part's, and its subfolder's.
        weights: whether they are needed.
    """
    there = {path.name for path in (folder / name).glob("*") if path.is_file()}
    configurations = [file for file in there if file.endswith("config.json")]
    if not configurations:
        return [f"{name}/*config.json"]
    if "tokenizer_config.json" in there:
        return [] if there & set(VOCABULARIES) else [f"{name}/{VOCABULARIES[0]} or {name}/{VOCABULARIES[1]}"]
    if "config.json" not in there or not weights:
        return []  # a scheduler or an image processor, or a network whose shapes are enough
    indices = [file for file in there if file.endswith(".index.json")]
    if not indices:
        return [] if any(file.endswith(WEIGHTS) for file in there) else [f"{name}/*{WEIGHTS[0]}"]
    shards = [set(json.loads((folder / name / file).read_text())["weight_map"].values()) - there for file in indices]
    fewest = min(shards, key=len)
    return [f"{name}/{shard}" for shard in sorted(fewest)]
