"""`hn compare`: base, trained networks and test-time searches on the same prompts, from the same noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.utils.data import DataLoader

from hn.data.prompts import PromptBatch
from hn.evaluation.categories import Categories
from hn.evaluation.comparison.cache import MeasurementCache, measurement_settings, weights_settings
from hn.evaluation.comparison.details import details, image_rows
from hn.evaluation.comparison.gallery import Gallery, choose_prompts
from hn.evaluation.comparison.measure import measure, reference_features
from hn.evaluation.comparison.options import FINETUNE, HYPERNETWORK, Comparison, name_at
from hn.evaluation.methods import Method, Sampled, Searched, TrainedMethod
from hn.evaluation.record import MethodRecord
from hn.evaluation.samples import Samples
from hn.evaluation.scorer import Scorer
from hn.generators.base import Generator
from hn.hypernets import Hypernet, LoraFinetune, Trainable
from hn.hypernets.trained import load_trained
from hn.report.comparison import GALLERY
from hn.report.curves import plot_curves, validation_curves
from hn.report.page import write_report
from hn.report.result_files import IMAGES_CSV, METHODS_CSV, TIMING_JSON, write_images_csv, write_methods_csv
from hn.report.results import finite
from hn.search import WarmStart
from hn.training.callbacks.images import ImageGrid
from hn.training.module import NoiseHypernetModule
from hn.training.run_directory import updates_of
from hn.utils.files import write_json
from hn.utils.images import labelled_grid, write_png
from hn.utils.progress import SharedProgress
from hn.utils.text import say


def check_comparison(is_evaluated: bool, is_finetune: bool) -> None:
    """Refuse a comparison without an `Evaluation` callback, or of an experiment that trains a fine-tune.

    Raises:
        ValueError: says what to do.
    """
    if not is_evaluated:
        raise ValueError("A comparison needs the callback hn.training.callbacks.evaluation.Evaluation.")
    if is_finetune:
        raise ValueError("This experiment trains a fine-tune; compare the hypernetwork experiment that names it.")


def load_networks(
    weights: Mapping[str, str], generator: Generator, trust_remote_code: Sequence[str] = ()
) -> dict[str, Trainable]:
    """The trained networks of a comparison, by their key in `results.json`, bound to `generator`.

    Args:
        weights: folder or Hub id of each; that of "hypernetwork" must be a hypernetwork, that of "finetune" a
            fine-tune, and the others say what they are.
        generator: one without weights will do, under `torch.device("meta")`, to see whether they fit.
        trust_remote_code: class paths of hypernetworks, not of hn, that their files may name.

    Raises:
        FileNotFoundError: if weights are missing.
        ValueError: if they do not fit the generator, or are of the other kind; names the network.
    """
    networks: dict[str, Trainable] = {}
    for name, folder in weights.items():
        try:
            if name == HYPERNETWORK:
                networks[name] = Hypernet.from_pretrained(folder, generator, None, trust_remote_code)
            elif name == FINETUNE:
                networks[name] = LoraFinetune.from_pretrained(folder, generator)
            else:
                networks[name] = load_trained(folder, generator, None, None, None, trust_remote_code)
        except ValueError as error:
            raise ValueError(f"The comparison's {name} cannot be loaded: {error}") from error
    return networks


@dataclass(frozen=True)
class ComparedMethod:
    """A row of a comparison.

    Attributes:
        method: what makes the images.
        network: key of the trained network that it needs; None if it needs none.
    """

    method: Method
    network: str | None = None

    @property
    def name(self) -> str:
        """Its key in `results.json`."""
        return self.method.name


def compared_methods(
    model: NoiseHypernetModule, comparison: Comparison, networks: Mapping[str, Trainable]
) -> list[ComparedMethod]:
    """Base and trained networks, each at the generator's own and then at more steps, and the searches.

    Args:
        model: generator and rewards.
        comparison: the searches and numbers of steps.
        networks: by their key in `results.json`, bound to the model's generator; "hypernetwork" among them.

    Raises:
        ValueError: if a search does not fit the generator, or starts from a fine-tune or what is not compared.
    """
    comparison.check_starts()
    steps = (None, *comparison.more_steps(model.generator.steps))
    rows: list[tuple[Sampled | TrainedMethod, str | None]] = [(model.base_method(number), None) for number in steps]
    rows += [(TrainedMethod(net, number, name), name) for name, net in networks.items() for number in steps]
    for method, _ in rows:
        if method.steps != model.generator.steps:
            method.name = name_at(method.name, method.steps)
    found = [ComparedMethod(method, network) for method, network in rows]
    for name, search in comparison.searches.items():
        network = None
        if isinstance(search, WarmStart):
            network = search.start
            hypernet = networks[network]
            if not isinstance(hypernet, Hypernet):
                raise ValueError(f"The search {name} starts from {network}, a fine-tune, which leaves the noise alone.")
            search = search.bound(hypernet)
        if search is not None:
            found.append(ComparedMethod(Searched(name, model.generator, search, model.reward), network))
    return found


@dataclass(frozen=True)
class ComparedPrompts:
    """The prompts of a comparison.

    Attributes:
        batches: of the data loader, all of them.
        texts: prompts by number.
        categories: of the prompts, by number.
        grouped_by: fields of the prompts' rows that the categories are from.
    """

    batches: Sequence[PromptBatch]
    texts: Mapping[int, str]
    categories: Mapping[int, str]
    grouped_by: list[str]

    @classmethod
    def of(cls, loader: DataLoader, category: str | None) -> ComparedPrompts:
        """All prompts of a loader.

        Args:
            loader: of a `PromptDataset` or another one.
            category: as for `Comparison`.

        Raises:
            ValueError: if no prompt has that field.
        """
        batches = list(loader)
        texts = {i: text for batch in batches for i, text in zip(batch["index"].tolist(), batch["prompt"], strict=True)}
        rows = [row for batch in batches for row in batch["metadata"]]
        files = getattr(getattr(loader, "dataset", None), "files", None)  # of a `PromptDataset`
        grouped = Categories.of(category, rows, [files[i] for i in texts] if files else None)
        return cls(batches, texts, dict(zip(texts, grouped.names, strict=True)), grouped.fields)


_METHODS = "methods"
"""Text in the PNG of all methods: their names."""


class ComparisonRun:
    """A comparison in a directory: what was measured there is reused, the rest is measured and kept.

    Args:
        directory: of the comparison; records go to its `records`, images to its `gallery`.
        model: generator and rewards.
        prompts: what is compared on.
        comparison: the searches, numbers of steps and size of the gallery.
        networks: the trained networks by their key in `results.json`, "hypernetwork" among them.
        weights: folder or Hub id of each of them.
        settings: the configuration behind all of it, `comparison` included.

    Raises:
        ValueError: if a method does not fit the generator, or what the directory has was measured with other settings.
    """

    def __init__(
        self,
        directory: Path,
        model: NoiseHypernetModule,
        prompts: ComparedPrompts,
        comparison: Comparison,
        networks: Mapping[str, Trainable],
        weights: Mapping[str, str],
        settings: Mapping[str, Any],
    ) -> None:
        self.directory, self.model, self.prompts, self.weights = directory, model, prompts, weights
        compared = compared_methods(model, comparison, networks)
        self.methods = [each.method for each in compared]
        self.noise = {"images_per_prompt": model.images_per_prompt, "seed": model.evaluation_seed}
        searches = settings["comparison"].get("searches") or {}
        self.own = _own_settings(compared, searches, weights)
        shared = {**settings, "comparison": {"gallery": comparison.gallery}}
        self.cache = MeasurementCache(directory / "records", measurement_settings(shared, prompts.batches))
        # Refused now, not after hours.
        self.started = {name: self.cache.load(name, own) for name, own in self.own.items()}
        self.left = {name: prompts.batches[record.batches if record else 0 :] for name, record in self.started.items()}
        choose = partial(choose_prompts, prompts.categories, comparison.gallery)
        self.gallery = Gallery(directory / GALLERY, self.cache.gallery(choose))
        self.records: dict[str, MethodRecord] = {}
        self.reference: dict[str, Tensor] | None = None

    def measure(self, scorer: Scorer) -> None:
        """Measure what is not there yet; afterwards `records` and `reference` have all of it."""
        generator, batches = self.model.generator, self.prompts.batches
        self.reference = self.cache.load_reference()
        if self.reference is None:
            self.reference = reference_features(generator, scorer, batches, **self.noise)
            if self.reference is not None:
                self.cache.keep_reference(self.reference)
        progress = SharedProgress({m.name: (len(self.left[m.name]), m.expected_nfe) for m in self.methods})
        for method in self.methods:
            name = method.name
            record = measure(
                method,
                scorer,
                generator,
                progress.over(self.left[name], name),
                **self.noise,
                record=self.started[name],
                after_batch=partial(self.cache.keep, own=self.own[name], of_batches=len(batches)),
                after_images=self.gallery.keep,
            )
            self.records |= {found.name: found for found in (*record.earlier.values(), record)}

    def draw(self, grid: ImageGrid) -> Path | None:
        """Draw every method's images of the grid's prompts in one picture.

        Returns:
            The picture's path; None if it is there, of these methods, and nothing was left to measure.
        """
        path = self.directory / "images" / "comparison.png"
        names = json.dumps([method.name for method in self.methods])
        if path.is_file() and not any(self.left.values()) and _text_of(path) == names:
            return None
        samples = Samples.of_prompts(self.model.generator, grid.prompts, 1, grid.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = {method.name: method(samples).images for method in self.methods}
        text = PngInfo()
        text.add_text(_METHODS, names)
        write_png(labelled_grid(rows, grid.prompts, grid.upscale), path, pnginfo=text)
        return path

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Entries of `results.json` for the methods, by name."""
        base = self.records["base"]
        summaries = {}
        for name, record in self.records.items():
            against = None if record is base else base
            own = details(record, self.prompts.categories, against)
            summaries[name] = record.summary(against, self.reference) | own
        return summaries

    @property
    def runs(self) -> dict[str, Path]:
        """Directories of the runs that the trained weights are from, by the key of the network; none for Hub ids."""
        return {name: Path(folder).parent for name, folder in self.weights.items() if Path(folder).is_dir()}

    def facts(self) -> dict[str, Any]:
        """Entries of `results.json` beside the methods."""
        return {
            "weights": dict(self.weights),
            "updates": {name: updates_of(run) for name, run in self.runs.items()},
            "reward_weights": dict(self.model.reward.weights),
            "grouped_by": self.prompts.grouped_by,
            "curves": {name: validation_curves(run) for name, run in self.runs.items()},
        }

    def write_report(self, methods: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `results.csv`, `images.csv`, `timing.json`, the curves and `report.html`; say where the last two are.

        Args:
            methods: those of `results.json`.
        """
        directory, prompts = self.directory, self.prompts
        write_methods_csv(directory / METHODS_CSV, methods)
        records = self.records.values()
        rows = (row for record in records for row in image_rows(record, prompts.texts, prompts.categories))
        write_images_csv(directory / IMAGES_CSV, rows)
        # Not in results.json, which is the same for the same measurements but for the seconds of each image.
        traces = {record.name: record.trace() for record in records if record.trace()}
        timing = {"finished": datetime.now().astimezone().isoformat(timespec="seconds"), "traces": traces}
        write_json(directory / TIMING_JSON, finite(timing))
        curves = plot_curves(self.runs, directory / "images" / "curves.png", title=directory.parent.name)
        if curves is not None:
            say(f"curves       {curves}")
        say(f"report       {write_report(directory)}")


def _text_of(picture: Path) -> str | None:
    """The methods that a picture of `ComparisonRun.draw` shows, as it has them."""
    with Image.open(picture) as opened:
        return opened.info.get(_METHODS)


def _own_settings(
    compared: Sequence[ComparedMethod], searches: Mapping[str, Any], weights: Mapping[str, str]
) -> dict[str, dict[str, Any] | None]:
    """What the scores of each method depend on beside the settings of the comparison: search and trained network.

    Args:
        compared: the methods.
        searches: settings of the searches, by name.
        weights: folder or Hub id of each trained network.
    """
    of_weights = {name: weights_settings(folder) for name, folder in weights.items()}
    own: dict[str, dict[str, Any] | None] = {}
    for each in compared:
        trained = {} if each.network is None else {"weights": of_weights[each.network]}
        own[each.name] = {**(searches.get(each.name) or {}), **trained} or None
    return own
