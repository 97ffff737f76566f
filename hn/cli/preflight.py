"""What a configuration's values tell before anything is loaded: that a run would fail once its weights are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import Strategy
from torch import nn

from hn.cli.instances import instantiate, instantiate_on_meta, module_options
from hn.data.module import PromptDataModule
from hn.data.prompts import PromptDataset
from hn.data.store import PromptStore
from hn.evaluation.categories import Categories
from hn.evaluation.comparison.options import Comparison
from hn.evaluation.generate import ImageRequest
from hn.generators import DiffusersGenerator
from hn.generators.base import Generator
from hn.hypernets import LoraFinetune, Trainable
from hn.rewards import ensemble
from hn.rewards.base import Reward
from hn.training.callbacks.evaluation import Evaluation
from hn.training.compare import check_comparison
from hn.training.module import check_options, check_training
from hn.training.strategy import ShardedStrategy, check_optimizer
from hn.training.trainer import check_monitors
from hn.utils.class_path import import_class

TRAINING_VERBS = ("fit", "train", "plan")


def check_values(verb: str, sections: Mapping[str, Any]) -> None:
    """Refuse values that the objects of a run would refuse, where these cannot be made before weights are loaded.

    Args:
        verb: of the command line.
        sections: the configuration.

    Raises:
        ValueError: as `RewardEnsemble`, `NoiseHypernetModule`, its optimiser, `ShardedStrategy`, `PromptDataModule`,
            `Comparison` and `ImageRequest`.
    """
    model, trainer = sections["model"], sections["trainer"]
    reward = _init_args(model["reward"])
    balanced = reward.get("balance_gradients", False)
    ensemble.check_options(
        _classes(reward.get("rewards")),
        reward.get("weights"),
        _classes(reward.get("held_out")),
        reward.get("normalise") or {},
        balanced,
        reward.get("gradient_free", False),
        reward.get("quantise"),
    )
    options = module_options(model)
    numbers = (options[name] for name in ("images_per_prompt", "warmup_steps", "decay_steps", "score_batch_size"))
    check_options(*numbers, import_class(model["generator"]["class_path"], Generator), balanced)
    callbacks = [*_callbacks(sections)]
    is_evaluated = any(issubclass(kind, Evaluation) for kind, _ in callbacks)
    if verb in TRAINING_VERBS:
        gradient_free = reward.get("gradient_free", False)
        check_training(trainer.get("precision"), options.score_batch_size, balanced, gradient_free)
        optimizer = options.optimizer([nn.Parameter(torch.zeros(1))])
        if _is_sharded(trainer.get("strategy")):
            check_optimizer(optimizer)
    if verb in ("fit", "train"):
        watching = [(k, own.get("monitor")) for k, own in callbacks if issubclass(k, ModelCheckpoint | EarlyStopping)]
        check_monitors(watching, is_evaluated, bool(reward.get("held_out")))
    if verb == "compare":
        network = import_class(model["hypernet"]["class_path"], nn.Module)
        check_comparison(is_evaluated, issubclass(network, LoraFinetune))
        instantiate("comparison", Comparison, sections["comparison"])
    if verb == "generate":
        _request(sections)
    data = sections.get("data")
    if data is not None and issubclass(import_class(data["class_path"], LightningDataModule), PromptDataModule):
        instantiate("data", PromptDataModule, data)


def check_steps(verb: str, sections: Mapping[str, Any], generator: Generator) -> None:
    """Refuse numbers of sampling steps that the generator cannot do.

    Args:
        verb: of the command line.
        sections: the configuration.
        generator: without weights, as a rule.

    Raises:
        ValueError: says what the generator can do.
    """
    if verb == "compare":
        for steps in instantiate("comparison", Comparison, sections["comparison"]).more_steps(generator.steps):
            generator.check_steps(steps)
    elif verb == "generate":
        _request(sections).check(generator)


def _init_args(section: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The `init_args` of a section with a class path."""
    return (section or {}).get("init_args") or {}


def _request(sections: Mapping[str, Any]) -> ImageRequest:
    """What `hn generate` is asked for."""
    prompts = sections["prompt"]
    numbers = {name: sections[name] for name in ("count", "seed", "steps", "batch_size", "upscale")}
    return ImageRequest([prompts] if isinstance(prompts, str) else list(prompts), **numbers)


def _is_sharded(strategy: str | Mapping[str, Any] | None) -> bool:
    if not isinstance(strategy, Mapping):
        return False
    return issubclass(import_class(strategy["class_path"], Strategy), ShardedStrategy)


def _classes(rewards: Mapping[str, Mapping[str, Any]] | None) -> dict[str, type[Reward]]:
    return {name: import_class(section["class_path"], Reward) for name, section in (rewards or {}).items()}


def _callbacks(sections: Mapping[str, Any]) -> Iterator[tuple[type[Callback], Mapping[str, Any]]]:
    """Class and arguments of each callback, those of the trainer's own option among them."""
    others = sections["trainer"].get("callbacks") or []
    for section in [*sections["callbacks"].values(), *(others if isinstance(others, list) else [others])]:
        if section is not None:
            yield import_class(section["class_path"], Callback), _init_args(section)


def check_category(category: str | None, prompts: Mapping[str, Any], store: PromptStore) -> None:
    """Whether the prompts of a test can be grouped so, before anything is trained or measured.

    Args:
        category: of `Comparison`.
        prompts: arguments of a `PromptDataModule`.
        store: where named sets are kept.

    Raises:
        FileNotFoundError, ValueError, DownloadError: as `PromptDataset` and `Categories.by`.
    """
    if category is not None and prompts.get("test"):
        dataset = PromptDataset(prompts["test"], prompts.get("limit_test"), store=store)
        Categories.by(category, dataset.rows, dataset.files)


def try_without_weights(generator: Mapping[str, Any], hypernet: Mapping[str, Any]) -> DiffusersGenerator | None:
    """Whether generator and hypernetwork (or fine-tune) fit each other, before the weights of anything are loaded.

    Returns:
        The generator without weights; None if its class has no such thing.

    Raises:
        ValueError, FileNotFoundError: if not, or if something is missing.
    """
    outline = instantiate_on_meta(generator)
    if outline is None:
        return None
    network = instantiate("hypernet", Trainable, hypernet)
    with torch.device("meta"):
        network.build(outline)
    return outline
