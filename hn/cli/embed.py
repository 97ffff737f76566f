"""`hn embed`: the text embeddings of an experiment's prompts, as files; other commands add those that they need."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import LightningDataModule

from hn.cli.instances import generator_on_meta, instantiate
from hn.cli.parsing import UserError, user_errors
from hn.data.encodings.files import PromptFiles
from hn.data.encodings.write import SHARD_BYTES, Embedded, Encoder, write_missing
from hn.data.module import PromptDataModule
from hn.evaluation.suite import SuitePrompts
from hn.generators.pipeline import DiffusersGenerator
from hn.rewards.base import Reward
from hn.rewards.contrastive import FEATURES, ContrastiveReward
from hn.training.callbacks.suite import suites_in
from hn.utils.class_path import import_class
from hn.utils.device import find_device
from hn.utils.text import say


def embed_prompts(
    generator: DiffusersGenerator, prompts: Iterable[str], device: torch.device, shard_bytes: int = SHARD_BYTES
) -> Embedded:
    """Encode the prompts that are not in the files of `generator.conditioning` yet, and add them: see `write_missing`.

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

    def load(missing: list[str]) -> Encoder:
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
    """Encode the prompts that are not in the files of a reward's text features yet, and add them: see `write_missing`.

    Says at the end how many prompts the text tower truncates.

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

    def load(_: list[str]) -> Encoder:
        reward = load_reward().to(device)
        return Encoder(
            lambda batch: {FEATURES: reward.encode_text(batch)}, reward.encode_batch_size, [reward.truncation]
        )

    return write_missing(files, prompts, load, shard_bytes)


def with_caches(model: Namespace) -> None:
    """Switch on the generator's `cache`, in a configuration's model."""
    if "init_args" in model.generator:
        model.generator.init_args.cache = cache_of(model.generator) or True


def embedded_parts(sections: Mapping[str, Any]) -> list[Any]:
    """The parts of a configuration whose files are needed: rewards only if they have a `cache` too."""
    model = sections["model"]
    return [model["generator"], *([model["reward"]] if cache_of(model["reward"]) else []), sections["data"]]


def run_embed(config: Namespace) -> None:
    """Encode all prompts of an experiment that are in no file yet, and say how many they were.

    Raises:
        UserError: as `embed_experiment`, or for what that raises.
    """
    with user_errors():
        done = embed_experiment(None, True, config.clone().as_dict())
    for name, each in done.items():
        say(f"{each.prompts} prompts, {each.written} of them new\n{name:<12} {each.folder}")


def embed_experiment(
    stages: Sequence[str] | None, has_suites: bool, sections: Mapping[str, Any]
) -> dict[str, Embedded]:
    """Encode the prompts that a command needs and that are in no file yet: the generator's conditioning, if it has a
    `cache`, and the text features of rewards, if their ensemble has one.

    Args:
        stages: of Lightning, whose prompts are needed; None for all of the experiment.
        has_suites: whether the prompts of `PromptSuite` callbacks are needed.
        sections: the configuration; "model", "data", "callbacks" and "trainer" of it are read.

    Returns:
        What was done, by "conditioning" and the names of rewards.

    Raises:
        UserError: if the generator is no `DiffusersGenerator`, or the data module no `PromptDataModule`.
        ValueError, OSError: as `embed_prompts`.
    """
    generator, ensemble = sections["model"]["generator"], sections["model"].get("reward") or {}
    caches = cache_of(generator), cache_of(ensemble)
    if not any(caches):
        return {}
    accelerator = sections["trainer"].get("accelerator") or "auto"
    device = find_device({"gpu": "cuda"}.get(accelerator, accelerator))
    prompts = experiment_prompts(stages, has_suites, sections["data"], sections["callbacks"])
    done = {}
    if caches[0]:
        meta_generator = generator_on_meta(generator)
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


def experiment_prompts(
    stages: Sequence[str] | None, has_suites: bool, data: Mapping[str, Any] | None, callbacks: Mapping[str, Any]
) -> list[str]:
    """The prompts that a command needs: those of the data module, and of callbacks.

    Args:
        stages: of Lightning; None for all that the data module has prompts for.
        has_suites: whether the prompts of `PromptSuite` callbacks are among them.
        data: class path and arguments of the data module.
        callbacks: those of all callbacks by name; an argument `prompts` is a list of prompts, but for a `PromptSuite`.

    Raises:
        UserError: if the data module is no `PromptDataModule`.
    """
    if data is None or not issubclass(import_class(data["class_path"], LightningDataModule), PromptDataModule):
        raise UserError("The option `cache` needs a PromptDataModule: its prompts are known beforehand.")
    module = instantiate("data", PromptDataModule, data)
    for stage in _stages_with_prompts(module) if stages is None else stages:
        module.setup(stage)
    prompts: list[str] = []
    suites = [*suites_in(callbacks)]
    if has_suites:
        for suite in suites:
            options = (suite.get("category"), suite.get("limit"), module.training_prompts(), module.store)
            prompts += SuitePrompts.read(suite["prompts"], *options).texts
    arguments = [(callback or {}).get("init_args", {}) for callback in callbacks.values()]
    prompts += [prompt for own in arguments if own not in suites for prompt in own.get("prompts") or []]
    return [prompt for dataset in module.datasets.values() for prompt in dataset.prompts] + prompts


def _stages_with_prompts(module: PromptDataModule) -> list[str]:
    """Stages that together need all prompts of a data module."""
    paths = module.paths
    training = ["fit"] if paths["train"] else ["validate"] if paths["val"] else []
    return training + [stage for stage in ("test", "predict") if paths[stage]]
