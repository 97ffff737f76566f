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
from hn.evaluation.best_of import BestOf
from hn.evaluation.methods import Candidates, Method, Sampled, TrainedMethod
from hn.evaluation.samples import Samples
from hn.generators.base import Generator
from hn.generators.noise import evaluation_noise
from hn.generators.pipeline_generator import PipelineGenerator
from hn.hypernets.lora import LoraBackbone, LoraHypernet
from hn.hypernets.trainable import Trainable
from hn.hypernets.trained import load_trained
from hn.rewards.ensemble import RewardEnsemble
from hn.utils.environment import environment
from hn.utils.files import claimed_directory, write_json
from hn.utils.images import labelled_grid, save_png, write_png
from hn.utils.layers import compile_layers
from hn.utils.progress import with_progress
from hn.utils.text import require_unicode, say

OVERVIEW_COLUMNS = 16
LABEL_WIDTH = 96  # pixels that a caption needs


@dataclass(frozen=True)
class ImageRequest:
    """What to make images of.

    Image k of a prompt depends on seed and k alone, and on the prompt's number with `own_noise`, not on what else is
    asked for; with `batch_size` 1 to the last bit.

    Args:
        prompts: one or more.
        count: images of each prompt.
        seed: of the noise.
        steps: sampling steps; the generator's own number if not given.
        batch_size: images made at once.
        upscale: each pixel becomes upscale x upscale pixels of the overview; enough for its labels if not given.
        best_of: images that are made in the place of each, of which a reward chooses one; None to make no choice.
        keep_candidates: whether all of these are written too.
        own_noise: whether each prompt has noise of its own, by its number, which metadata then have as `index`.

    Raises:
        ValueError: if there are no prompts, one is empty or no valid Unicode, a number is below 1, or candidates are to
            be kept where there are none.
    """

    prompts: Sequence[str]
    count: int = 4
    seed: int = 0
    steps: int | None = None
    batch_size: int = 1
    upscale: int | None = None
    best_of: int | None = None
    keep_candidates: bool = False
    own_noise: bool = False

    def __post_init__(self) -> None:
        if not self.prompts or not all(text.strip() for text in self.prompts):
            raise ValueError("The prompt is empty.")
        for prompt in self.prompts:
            require_unicode(prompt, "The prompt")
        numbers = {name: getattr(self, name) for name in ("count", "steps", "batch_size", "upscale", "best_of")}
        too_small = [f"{name} ({value})" for name, value in numbers.items() if value is not None and value < 1]
        if too_small:
            raise ValueError(f"{', '.join(too_small)} must be at least 1.")
        if self.keep_candidates and self.best_of is None:
            raise ValueError("keep_candidates keeps the images among which best_of chooses; give that too.")

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
        numbered = enumerate(self.prompts)
        wanted = [(prompt, number * self.own_noise, k) for number, prompt in numbered for k in range(self.count)]
        for start in range(0, len(wanted), self.batch_size):
            # Without `own_noise` all numbers are 0: a place on the command line is no part of what is asked for.
            prompts, index, copy = map(list, zip(*wanted[start : start + self.batch_size], strict=True))
            metadata = [{"prompt": prompt} for prompt in prompts]
            noise = evaluation_noise(generator, index, copy, self.seed)
            yield Samples(prompts, metadata, index, copy, self.seed, noise)


@dataclass(frozen=True)
class Trained:
    """What was trained on top of a generator: where it is, and what its files do not say; see `load_trained`.

    Args:
        pretrained: folder or Hub id of a hypernetwork or fine-tune, or of a published LoRA adapter.
        revision: branch, tag or commit on the Hub.
        last_layer_rule: for a published adapter: what becomes of the last layer, like lora_branch_only.
        alpha: for a published adapter that does not say.
        merge: whether to merge a hypernetwork's LoRA into a copy of the backbone.
        trust_remote_code: class paths of hypernetworks, not of hn, that its files may name.
    """

    pretrained: str
    revision: str | None = None
    last_layer_rule: str | None = None
    alpha: float | None = None
    merge: bool = False
    trust_remote_code: Sequence[str] = ()

    def load(self, generator: Generator) -> Trainable:
        """A hypernetwork or fine-tune, bound to `generator`.

        If the generator's backbone is compiled, so is the one with LoRA, a copy of its own that would not be otherwise.

        Raises:
            FileNotFoundError, ValueError: as `load_trained`, or if there is no LoRA hypernetwork to merge.
        """
        stated = (self.revision, self.last_layer_rule, self.alpha, self.trust_remote_code)
        model = load_trained(self.pretrained, generator, *stated)
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
    make_reward: Callable[[], RewardEnsemble] | None = None,
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
        make_reward: loads what chooses among the `best_of` of the request; before the generator is loaded.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if generator, what was trained, reward, and request do not fit each other, or an image is not
            finite.
    """
    meta_generator = make_on_meta()
    if meta_generator is not None:
        request.check(meta_generator)
        if trained is not None:
            with torch.device("meta"):
                trained.load(meta_generator)
    reward = None if make_reward is None else make_reward()
    check_choice(request, reward)
    generator = make_generator()
    request.check(generator)
    generator.to(device)
    model = None if trained is None else trained.load(generator)
    methods: list[Sampled | TrainedMethod] = []
    if model is None or compare:
        methods.append(Sampled("base", generator, request.steps))
    if model is not None:
        methods.append(TrainedMethod(model.to(device), request.steps))
    facts: dict[str, Any] = (
        {} if trained is None else {"hypernet": trained.pretrained, "hypernet_revision": trained.revision}
    )
    if trained is not None and trained.merge:
        facts["merged"] = True
    if reward is not None:
        reward.to(device)
        facts["reward_weights"] = dict(reward.weights)
    with claimed_directory(directory) as claimed:
        write_images(chosen_methods(methods, request, reward), request, claimed, facts)


def check_choice(request: ImageRequest, reward: RewardEnsemble | None) -> None:
    """Refuse a reward that cannot choose among the `best_of` images of a request.

    Raises:
        ValueError: if there is none, all of it has weight 0, or it cannot score one of the prompts.
    """
    if request.best_of is None:
        return
    if reward is None or not any(reward.weights.values()):
        raise ValueError("best_of needs a reward that chooses: there is none with a weight other than 0.")
    reward.check_prompts(request.prompts)


def chosen_methods(
    methods: Sequence[Sampled | TrainedMethod], request: ImageRequest, reward: RewardEnsemble | None
) -> Sequence[Method]:
    """The methods; with `best_of` their best images by the reward."""
    if request.best_of is None or reward is None:
        return methods
    choice = (request.best_of, reward.total, request.batch_size, request.keep_candidates)
    return [BestOf(method, *choice) for method in methods]


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
    written stays, and `metadata.json` is of that. Where one of several candidates is chosen (`BestOf`), metadata have
    their scores, which are printed too; those that are kept are `candidates/<number>_<method>_<candidate>.png`.

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
    text = {**facts, "versions": made_with["packages"]}
    entries: dict[str, list[dict[str, Any]]] = {method.name: [] for method in methods}
    shown: dict[str, list[Tensor]] = {method.name: [] for method in methods}
    batches = range(-(-len(request) // request.batch_size))
    try:
        for samples, batch in zip(request.batches(generator), with_progress(batches, "images"), strict=True):
            first = batch * request.batch_size
            for method in methods:
                with context():
                    output = method(samples)
                seconds = round(output.seconds / len(samples), 6)
                for offset, image in enumerate(output.images):
                    entry = _entry(method, samples, output.candidates, offset)
                    if request.own_noise:
                        entry["index"] = samples.index[offset]
                    stem = f"{first + offset:04d}_{method.name}"
                    save_png(image, directory / f"{stem}.png", {**entry, **text})
                    if request.keep_candidates and output.candidates is not None:
                        _save_candidates(output.candidates, offset, directory / "candidates", stem, {**entry, **text})
                    entries[method.name].append({"file": f"{stem}.png", **entry, "seconds": seconds})
                    if first + offset < OVERVIEW_COLUMNS:
                        shown[method.name].append(image.float().cpu())
    finally:
        images = [entry for method in entries.values() for entry in method]
        write_json(directory / "metadata.json", {"environment": made_with, **facts, "images": images})
    if request.best_of is not None:
        _print_scores(entries, request.best_of)
    say(f"images       {directory} ({len(request)} each of {' and '.join(entries)})")
    if len(methods) > 1:
        _draw_overview(shown, request, directory / "overview.png")


def _entry(method: Method, samples: Samples, candidates: Candidates | None, offset: int) -> dict[str, Any]:
    """Metadata of one image of a batch: what it shows, what made it, and what it was chosen among."""
    entry: dict[str, Any] = {
        "prompt": samples.prompts[offset],
        "image": samples.copy[offset],
        "method": method.name,
        "nfe": method.nfe,
    }
    if candidates is not None:
        scores, chosen = candidates.scores[offset], candidates.chosen[offset]
        entry |= {"score": scores[chosen], "candidate": chosen, "candidate_scores": scores}
    return entry


def _save_candidates(candidates: Candidates, offset: int, folder: Path, stem: str, text: Mapping[str, Any]) -> None:
    """Write the candidates of one image of a batch, `<stem>_<candidate>.png`, each with its own score."""
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(candidates.images[offset]):
        own = {"candidate": number, "score": candidates.scores[offset][number]}
        save_png(image, folder / f"{stem}_{number:03d}.png", {**text, **own})


def _print_scores(entries: Mapping[str, Sequence[Mapping[str, Any]]], best_of: int) -> None:
    """Print a line for each prompt: the chosen images' scores and those of all candidates, on average by method."""
    prompts = dict.fromkeys(entry["prompt"] for of_method in entries.values() for entry in of_method)
    for prompt in prompts:
        parts = []
        for method, of_method in entries.items():
            own = [entry for entry in of_method if entry["prompt"] == prompt]
            best = _mean([entry["score"] for entry in own])
            mean = _mean([score for entry in own for score in entry["candidate_scores"]])
            parts.append(f"{method} best {best}, mean {mean}")
        say(f"best of {best_of:<5}{prompt}: {'; '.join(parts)}")


def _mean(scores: Sequence[float | None]) -> str:
    """The mean of the scores that are numbers, for people; a dash if there are none."""
    finite = [score for score in scores if score is not None]
    return f"{sum(finite) / len(finite):.4g}" if finite else "-"


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
        **({} if request.best_of is None else {"best_of": request.best_of}),
    }


def _draw_overview(images: Mapping[str, Sequence[Tensor]], request: ImageRequest, path: Path) -> None:
    """Draw the first images [3, H, W] of each method in a row; say where."""
    rows = {name: torch.stack([*row]) for name, row in images.items()}
    width = next(iter(rows.values())).shape[-1]
    columns = [prompt for prompt in request.prompts for _ in range(request.count)][:OVERVIEW_COLUMNS]
    write_png(labelled_grid(rows, columns, request.upscale or -(-LABEL_WIDTH // width)), path)
    say(f"overview     {path}" + (f" (the first {len(columns)})" if len(columns) < len(request) else ""))
