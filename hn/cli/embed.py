"""Which prompts an experiment's conditioning and text features are of, and having them written before models are
loaded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule

from hn.cli.instances import instantiate, instantiate_on_meta
from hn.cli.parsing import UserError
from hn.data.encodings.files import PromptFiles
from hn.data.encodings.missing import MissingPrompts
from hn.data.encodings.write import SHARD_BYTES, Embedded, Encoder, write_missing
from hn.data.module import PromptDataModule
from hn.data.prompts import PromptDataset
from hn.evaluation.suite import SuitePrompts
from hn.generators.pipeline import DiffusersGenerator
from hn.rewards.base import Reward
from hn.rewards.contrastive import FEATURES, ContrastiveReward
from hn.training.callbacks.suite import suites_in
from hn.utils.class_path import import_class
from hn.utils.device import find_device


def embed_prompts(
    generator: DiffusersGenerator, prompts: Iterable[str], device: torch.device, shard_bytes: int = SHARD_BYTES
) -> Embedded:
    """Write what the files of `generator.conditioning` lack of prompts: see `write_missing`.

    Args:
        generator: with a `cache`; it may be on the meta device.
        prompts: in any order, repeated or not.
        device: of the text encoders.
        shard_bytes: a file is closed when it holds so many.

    Raises:
        ValueError: if there are no prompts, or the generator cannot take one of them; says what is wrong with it.
        FileNotFoundError: if weights are missing; says how to get them.
        OSError: if the disk has too little room, or cannot be written to; says what to do.
    """

    def load(missing: MissingPrompts) -> Encoder:
        encoder, pipe = generator.load_prompt_encoder(device)
        encoder.check(pipe, missing)
        return Encoder(lambda batch: encoder.encode(pipe, batch, device), encoder.batch_size)

    return write_missing(generator.conditioning, prompts, load, shard_bytes)


def embed_text_features(
    files: PromptFiles,
    load_reward: Callable[[], ContrastiveReward],
    prompts: Iterable[str],
    device: torch.device,
    shard_bytes: int = SHARD_BYTES,
) -> Embedded:
    """Write what the files of a reward's text features lack of prompts: see `write_missing`. How many of them the text
    tower cuts is said at the end.

    Args:
        files: of the reward's `text_fingerprint`.
        load_reward: loads the reward; not called if nothing is missing.
        prompts: in any order, repeated or not.
        device: of the text tower.
        shard_bytes: a file is closed when it holds so many.

    Raises:
        ValueError: if there are no prompts.
        FileNotFoundError: if weights are missing; says how to get them.
        OSError: if the disk has too little room, or cannot be written to; says what to do.
    """

    def load(_: MissingPrompts) -> Encoder:
        reward = load_reward().to(device)
        return Encoder(
            lambda batch: {FEATURES: reward.encode_text(batch)}, reward.encode_batch_size, [reward.truncation]
        )

    return write_missing(files, prompts, load, shard_bytes)


STAGES = {"train": ("fit", "test"), "compare": ("test",)}
"""The stages of which verbs need the prompts, where it is not the one of the verb's name."""

SUITE_VERBS = ("fit", "train", "test", "embed")
"""The verbs that need the prompts of `PromptSuite` callbacks."""


def embed_experiment(verb: str, sections: Mapping[str, Any]) -> dict[str, Embedded]:
    """Have written what all prompts that a verb needs are encoded to: the generator's conditioning, if it has a
    `cache`, and the text features of rewards, if their ensemble has one.

    Args:
        verb: of the command line; "embed" for all prompts of the experiment.
        sections: the configuration; "model", "data", "callbacks" and "trainer" of it are read.

    Returns:
        What was done, by "conditioning" and the names of rewards.

    Raises:
        UserError: if the generator or the prompts are of a kind that this cannot be done with.
        ValueError, OSError: as `embed_prompts`.
    """
    generator, ensemble = sections["model"]["generator"], sections["model"].get("reward") or {}
    caches = cache_of(generator), cache_of(ensemble)
    if not any(caches):
        return {}
    accelerator = sections["trainer"].get("accelerator") or "auto"
    device = find_device({"gpu": "cuda"}.get(accelerator, accelerator))
    prompts = experiment_prompts(verb, sections["data"], sections["callbacks"])
    done = {}
    if caches[0]:
        meta_generator = instantiate_on_meta(generator)
        if meta_generator is None:
            raise UserError(f"Prompts can be embedded for a DiffusersGenerator, not for a {generator['class_path']}.")
        done["conditioning"] = embed_prompts(meta_generator, prompts, device)
        _free_memory(device)
    for name, section in text_feature_sections(ensemble).items() if caches[1] else ():
        reward = import_class(section["class_path"], ContrastiveReward)
        files = PromptFiles(caches[1], reward.text_fingerprint(section["init_args"]), "text features")
        load = partial(instantiate, name, ContrastiveReward, section)
        done[name] = embed_text_features(files, load, prompts, device)
        _free_memory(device)
    return done


def cache_of(section: Mapping[str, Any]) -> bool | str:
    """The option `cache` of a generator or reward ensemble; false if there is none."""
    return section.get("init_args", {}).get("cache", False)


def text_feature_sections(ensemble: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rewards of an ensemble's configuration, trained and held out, that have text features."""
    arguments = ensemble["init_args"]
    members = {**arguments["rewards"], **(arguments.get("held_out") or {})}
    classes = {name: import_class(each["class_path"], Reward) for name, each in members.items()}
    return {name: each for name, each in members.items() if issubclass(classes[name], ContrastiveReward)}


def _free_memory(device: torch.device) -> None:
    gc.collect()  # text encoders hold on to themselves in cycles
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class ExperimentPrompts(Iterable[str]):
    """Prompts of an experiment, each as often as it comes; they can be gone through again and again. Those of a
    memory-mapped set are not in memory together.

    Attributes:
        datasets: of the data module.
        others: those of callbacks.
    """

    datasets: Sequence[PromptDataset]
    others: Sequence[str]

    def __iter__(self) -> Iterator[str]:
        for dataset in self.datasets:
            yield from dataset.iterate_texts()
        yield from self.others


def experiment_prompts(verb: str, data: Mapping[str, Any] | None, callbacks: Mapping[str, Any]) -> ExperimentPrompts:
    """The prompts that a verb needs: those of the data module, and of callbacks.

    Args:
        verb: "embed" for those of all stages that the data module has prompts for.
        data: class path and arguments of the data module.
        callbacks: those of all callbacks by name; an argument `prompts` is a list of prompts, but for a `PromptSuite`.

    Raises:
        UserError: if the data module is no `PromptDataModule`.
    """
    if data is None or not issubclass(import_class(data["class_path"], LightningDataModule), PromptDataModule):
        raise UserError("The option `cache` needs a PromptDataModule, of which the prompts are known.")
    module = instantiate("data", PromptDataModule, data)
    if verb == "embed":
        paths = module.paths
        stages = ["fit"] if paths["train"] else ["validate"] if paths["val"] else []
        stages += [stage for stage in ("test", "predict") if paths[stage]]
    else:
        stages = list(STAGES.get(verb, (verb,)))
    for stage in stages:
        module.setup(stage)
    prompts: list[str] = []
    suites = [*suites_in(callbacks)]
    if verb in SUITE_VERBS:
        for suite in suites:
            options = (suite.get("category"), suite.get("limit"), module.training_prompts(), module.store)
            prompts += SuitePrompts.read(suite["prompts"], *options).texts
    arguments = [(callback or {}).get("init_args", {}) for callback in callbacks.values()]
    prompts += [prompt for own in arguments if own not in suites for prompt in own.get("prompts") or []]
    return ExperimentPrompts([*module.datasets.values()], prompts)
