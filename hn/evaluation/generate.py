"""Images of prompts as files, with or without an experiment: PNGs, their metadata, and an overview of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hn
from hn.evaluation.methods import Method, Sampled, TrainedMethod
from hn.evaluation.samples import Samples
from hn.generators.base import Generator
from hn.generators.noise import prompt_noise
from hn.generators.pipeline_generator import PipelineGenerator
from hn.hypernets.lora import LoraBackbone, LoraHypernet
from hn.hypernets.trainable import Trainable
from hn.hypernets.trained import load_trained
from hn.utils.environment import environment
from hn.utils.files import unused_directory, write_json
from hn.utils.images import labelled_grid, save_png, write_png
from hn.utils.layers import compile_layers
from hn.utils.progress import with_progress

OVERVIEW_COLUMNS = 16
LABEL_WIDTH = 96  # pixels that a caption needs


@dataclass(frozen=True)
class ImageRequest:
    """What to make images of.

    Image k of a prompt depends on seed and k alone, not on what else is asked for; with `batch_size` 1 to the last bit.

    Args:
        prompts: one or more.
        count: images of each prompt.
        seed: of the noise.
        steps: sampling steps; the generator's own number if not given.
        batch_size: images made at once.
        upscale: each pixel becomes upscale x upscale pixels of the overview; enough for its labels if not given.

    Raises:
        ValueError: if there are no prompts, one is empty, or a number is below 1.
    """

    prompts: Sequence[str]
    count: int = 4
    seed: int = 0
    steps: int | None = None
    batch_size: int = 1
    upscale: int | None = None

    def __post_init__(self) -> None:
        if not self.prompts or not all(text.strip() for text in self.prompts):
            raise ValueError("The prompt is empty.")
        numbers = {name: getattr(self, name) for name in ("count", "steps", "batch_size", "upscale")}
        too_small = [f"{name} ({value})" for name, value in numbers.items() if value is not None and value < 1]
        if too_small:
            raise ValueError(f"{', '.join(too_small)} must be at least 1.")

    def __len__(self) -> int:
        return len(self.prompts) * self.count

    def check(self, generator: Generator) -> None:
        """Raises:
        ValueError: if the generator cannot take one of the prompts, or do that many steps.
        """
        generator.check_prompts(self.prompts)
        generator.check_steps(self.steps)

    def batches(self, generator: Generator) -> Iterator[Samples]:
        """The samples, prompt by prompt, with their noise."""
        wanted = [(prompt, k) for prompt in self.prompts for k in range(self.count)]
        for start in range(0, len(wanted), self.batch_size):
            prompts, copy = map(list, zip(*wanted[start : start + self.batch_size], strict=True))
            metadata = [{"prompt": prompt} for prompt in prompts]
            # The prompt's number is left out: its place on the command line is no part of what is asked for.
            yield Samples(prompts, metadata, [0] * len(copy), copy, self.seed, prompt_noise(generator, copy, self.seed))


@dataclass(frozen=True)
class Trained:
    """What was trained on top of a generator: where it is, and what its files do not say; see `load_trained`.

    Args:
        pretrained: folder or Hub id of a hypernetwork or fine-tune, or of a published LoRA adapter.
        revision: branch, tag or commit on the Hub.
        last_layer_rule: for a published adapter: what becomes of the last layer, like lora_branch_only.
        alpha: for a published adapter that does not say.
        merge: whether to merge a hypernetwork's LoRA into a copy of the backbone.
    """

    pretrained: str
    revision: str | None = None
    last_layer_rule: str | None = None
    alpha: float | None = None
    merge: bool = False

    def load(self, generator: Generator) -> Trainable:
        """A hypernetwork or fine-tune, bound to `generator`.

        If the generator's backbone is compiled, so is the one with LoRA, a copy of its own that would not be otherwise.

        Raises:
            FileNotFoundError, ValueError: as `load_trained`, or if there is no LoRA hypernetwork to merge.
        """
        model = load_trained(self.pretrained, generator, self.revision, self.last_layer_rule, self.alpha)
        is_compiled = isinstance(generator, PipelineGenerator) and generator.compile_networks
        if self.merge:
            if not isinstance(model, LoraHypernet):
                raise ValueError(f"{self.pretrained} is no LoRA hypernetwork, so it cannot be merged; leave merge out.")
            return model.merged(is_compiled)
        if is_compiled and not generator.is_meta and isinstance(model, LoraBackbone):
            compile_layers([model.backbone])
        return model


def generate_images(
    make_generator: Callable[[], Generator],
    make_on_meta: Callable[[], PipelineGenerator | None],
    request: ImageRequest,
    directory: Path,
    trained: Trained | None = None,
    compare: bool = False,
    device: torch.device | str = "cpu",
) -> None:
    """Make a generator and, from the same noise, its images and those of what was trained on top of it, as files.

    Args:
        make_generator: loads the generator.
        make_on_meta: gives the generator without weights, on which all is tried before they are loaded; or None if
            there is no such thing.
        request: what to make.
        directory: where to; made, under another name if it holds something.
        trained: what was trained; without it there are the base's images alone.
        compare: whether to make the base's images too, and an overview of both.
        device: where to compute.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if generator, what was trained, and request do not fit each other, or an image is not finite.
    """
    meta_generator = make_on_meta()
    if meta_generator is not None:
        request.check(meta_generator)
        if trained is not None:
            with torch.device("meta"):
                trained.load(meta_generator)
    generator = make_generator()
    request.check(generator)
    generator.to(device)
    model = None if trained is None else trained.load(generator)
    methods: list[Method] = []
    if model is None or compare:
        methods.append(Sampled("base", generator, request.steps))
    if model is not None:
        methods.append(TrainedMethod(model.to(device), request.steps))
    facts = {} if trained is None else {"hypernet": trained.pretrained, "hypernet_revision": trained.revision}
    if trained is not None and trained.merge:
        facts["merged"] = True
    write_images(methods, request, unused_directory(directory), facts)


def write_images(
    methods: Sequence[Method],
    request: ImageRequest,
    directory: Path,
    facts: Mapping[str, Any],
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Write `<number>_<method>.png` of every image and method, `metadata.json`, and with several methods an overview
    of the first images; say where.

    Each PNG has its own metadata as text chunks, and is there in whole or not at all. If this is interrupted, what was
    written stays, and `metadata.json` is of that.

    Args:
        methods: all of them make each image from the same noise.
        request: what to make.
        directory: where to; exists.
        facts: more entries of the metadata.
        context: what a method is called in, like autocast.

    Raises:
        ValueError: if an image is not finite.
    """
    generator, made_with = methods[0].generator, environment()
    facts = _describe(generator, request, facts)
    entries: dict[str, list[dict[str, Any]]] = {method.name: [] for method in methods}
    shown: dict[str, list[Tensor]] = {method.name: [] for method in methods}
    batches = range(-(-len(request) // request.batch_size))
    try:
        for samples, batch in zip(request.batches(generator), with_progress(batches, "images"), strict=True):
            first = batch * request.batch_size
            for method in methods:
                with context():
                    output = method(samples)
                for offset, image in enumerate(output.images):
                    entry = {
                        "prompt": samples.prompts[offset],
                        "image": samples.copy[offset],
                        "method": method.name,
                        "nfe": method.nfe,
                    }
                    file = f"{first + offset:04d}_{method.name}.png"
                    save_png(image, directory / file, {**entry, **facts, "versions": made_with["packages"]})
                    seconds = round(output.seconds / len(samples), 6)
                    entries[method.name].append({"file": file, **entry, "seconds": seconds})
                    if first + offset < OVERVIEW_COLUMNS:
                        shown[method.name].append(image.float().cpu())
    finally:
        images = [entry for method in entries.values() for entry in method]
        write_json(directory / "metadata.json", {"environment": made_with, **facts, "images": images})
    print(f"images       {directory} ({len(request)} each of {' and '.join(entries)})")
    if len(methods) > 1:
        _draw_overview(shown, request, directory / "overview.png")


def _describe(generator: Generator, request: ImageRequest, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What all images have in common, `facts` included."""
    size = {"height": generator.height, "width": generator.width} if isinstance(generator, PipelineGenerator) else {}
    return {
        "software": f"hn {hn.__version__}",
        "generator": generator.name,
        "revision": generator.revision,
        "dtype": str(generator.dtype).removeprefix("torch."),
        "device": str(generator.device),
        **size,
        **facts,
        "seed": request.seed,
        "steps": generator.steps if request.steps is None else request.steps,
        "batch_size": request.batch_size,
    }


def _draw_overview(images: Mapping[str, Sequence[Tensor]], request: ImageRequest, path: Path) -> None:
    """Draw the first images [3, H, W] of each method in a row; say where."""
    rows = {name: torch.stack([*row]) for name, row in images.items()}
    width = next(iter(rows.values())).shape[-1]
    columns = [prompt for prompt in request.prompts for _ in range(request.count)][:OVERVIEW_COLUMNS]
    write_png(labelled_grid(rows, columns, request.upscale or -(-LABEL_WIDTH // width)), path)
    print(f"overview     {path}" + (f" (the first {len(columns)})" if len(columns) < len(request) else ""))
