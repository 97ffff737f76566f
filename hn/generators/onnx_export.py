"""A pipeline as ONNX models in a folder, which `OnnxGenerator` runs."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hn.generators.base import Conditioning
from hn.generators.onnx import FACTS_FILE, GENERATOR_FILE, TEXT_ENCODER_FILE, TOKENIZER_FOLDER, OnnxGenerator
from hn.generators.pipeline_generator import PipelineGenerator
from hn.generators.random_inputs import random_inputs
from hn.utils.files import atomic_folder, require_unused
from hn.utils.program import MAX_BATCH, export_program, require_onnx, write_onnx

TOLERANCE = 1e-4
"""Largest difference of images in [0, 1]; for text states, of their largest value."""


@dataclass(frozen=True)
class ExportedGenerator:
    """What was written.

    Attributes:
        path: the folder.
        max_batch: the most samples that the models take at once.
        difference: largest difference of the folder's images from the generator's, on random inputs.
    """

    path: Path
    max_batch: int
    difference: float


class Sampler(nn.Module):
    """(noise [B, *noise_shape], conditioning) -> images [B, 3, H, W] of a pipeline, at the generator's steps."""

    def __init__(self, generator: PipelineGenerator) -> None:
        super().__init__()
        self.backbone, self.autoencoder = generator.backbone, generator.pipe.vae
        self._generator = (generator,)  # in a tuple: its text encoder is no part of this module

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        generator, latents = self._generator[0], {}

        def keep(_pipe: Any, step: int, _timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
            latents.update(given)
            if step == generator.steps - 1:
                # Behind its last step a StableDiffusionPipeline makes a list of as many entries as samples, which would
                # fix the batch size.
                raise _Sampled
            return given

        with suppress(_Sampled):
            generator.denoise(noise, conditioning, callback_on_step_end=keep)
        return generator.decode(latents["latents"])


class _Sampled(Exception):
    """The last step is done."""


class TextStates(nn.Module):
    """input_ids [B, L] -> token states [B, L, C] of a text encoder's last layer."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.text_encoder(input_ids)[0]


def require_exportable_generator(generator: PipelineGenerator, folder: Path) -> None:
    """Refuse what `export_generator` would; the generator may be on the meta device.

    Raises:
        ImportError: if packages for ONNX are missing.
        ValueError: if the folder is not empty, the pipeline's conditioning comes from more than one text encoder or
            depends on a prompt's length, or its weights are not in float32.
    """
    require_unused(folder)
    require_onnx()
    family = generator.family
    if len(family.text_parts) != 2 or family.reads_conditioning:
        raise ValueError(
            f"A {type(generator.pipe).__name__} cannot be exported: only pipelines with one tokenizer and one text "
            "encoder can, whose conditioning is the states of a fixed number of tokens, like a StableDiffusionPipeline."
        )
    if generator.dtype != torch.float32:
        raise ValueError(f"ONNX models are exported in float32, not {generator.dtype}: give dtype float32.")


@torch.no_grad()
def export_generator(generator: PipelineGenerator, folder: Path) -> ExportedGenerator:
    """Write a pipeline at the generator's size and steps as ONNX models, and compare them with the pipeline.

    Args:
        generator: in float32, on the CPU, with its text encoder.
        folder: new or empty; it is there in whole and compared, or not at all.

    Raises:
        ValueError: if torch cannot export the pipeline, or the models compute something else, for example where the
            scheduler draws noise after the first step; and as `require_exportable_generator`.
        ImportError: as `require_exportable_generator`.
    """
    require_exportable_generator(generator, folder)
    pipe, name = generator.pipe, type(generator.pipe).__name__
    states = generator.encode([""])
    if set(states) != {"prompt_embeds"} or pipe.text_encoder is None:
        raise ValueError(
            f"A {name} with the conditioning {', '.join(states)} cannot be exported: only one with prompt_embeds "
            "alone, and with a text encoder in memory (offload_text_encoders false, cache false)."
        )
    images, batch_size = export_program(Sampler(generator).eval(), lambda n: random_inputs(generator, n), None, name)
    window = states["prompt_embeds"].shape[1]
    vocabulary = len(pipe.tokenizer)
    texts, text_batch = export_program(
        TextStates(pipe.text_encoder).eval(), lambda n: (_random_ids(vocabulary, n, window),), None, "its text encoder"
    )
    facts = _facts(generator, window, MAX_BATCH if batch_size is None and text_batch is None else 1)
    with atomic_folder(folder) as partial:
        write_onnx(images, partial / GENERATOR_FILE, facts, ["noise", "prompt_embeds"], ["images"])
        write_onnx(texts, partial / TEXT_ENCODER_FILE, facts, ["input_ids"], ["prompt_embeds"])
        pipe.tokenizer.save_pretrained(partial / TOKENIZER_FOLDER)
        (partial / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        difference = _compare(OnnxGenerator(str(partial)), generator)
    return ExportedGenerator(folder, facts["max_batch"], difference)


def _facts(generator: PipelineGenerator, window: int, max_batch: int) -> dict[str, Any]:
    return {
        "exported_from": generator.name,
        "noise_shape": list(generator.noise_shape),
        "steps": generator.steps,
        "height": generator.height,
        "width": generator.width,
        "text_width": generator.text_width,
        "max_tokens": window,
        "max_batch": max_batch,
        "backbone": generator.backbone_class,
        "digest": generator.digest(),
    }


def _random_ids(vocabulary: int, batch_size: int, window: int) -> Tensor:
    return torch.randint(vocabulary, (batch_size, window), generator=torch.Generator().manual_seed(batch_size))


def _compare(written: OnnxGenerator, generator: PipelineGenerator) -> float:
    """Largest difference of images.

    Raises:
        ValueError: if images or text states differ by more than rounding.
    """
    differences = []
    for batch_size in (1, 3):
        noise, conditioning = random_inputs(generator, batch_size, seed=batch_size)
        differences.append(
            (written.generate(noise, conditioning) - generator.generate(noise, conditioning)).abs().max()
        )
    difference = torch.stack(differences).max().item()
    ids = _random_ids(len(generator.pipe.tokenizer), 3, written.facts["max_tokens"])
    states = TextStates(generator.pipe.text_encoder)(ids)
    pairs = [
        (written.text_encoder({"input_ids": ids})["prompt_embeds"], states),
        (written.encode([""])["prompt_embeds"], generator.encode([""])["prompt_embeds"]),
    ]
    texts = max(((found - own).abs().max() / own.abs().max()).item() for found, own in pairs)
    if not (difference <= TOLERANCE and texts <= TOLERANCE):  # NaN is refused too
        raise ValueError(
            f"The exported models differ from the pipeline by up to {difference:.3g} in images and {texts:.3g} in text "
            f"states, more than rounding ({TOLERANCE:g}), so nothing is written: ONNX does not do for a "
            f"{type(generator.pipe).__name__} with {type(generator.pipe.scheduler).__name__} at {generator.steps} "
            "steps."
        )
    return difference
