"""Single objects of a configuration, without an experiment around them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jsonargparse import Namespace

from hn.cli.parsing import Parser
from hn.generators.base import Generator
from hn.generators.pipeline import DiffusersGenerator
from hn.hypernets import Trainable
from hn.rewards.ensemble import RewardEnsemble
from hn.training.module import NoiseHypernetModule
from hn.utils.class_path import import_class

MODULE_PARTS = ("generator", "hypernet", "reward")


def instantiate(name: str, kind: Any, section: Mapping[str, Any]) -> Any:
    """The object of class `kind`, or one of its subclasses, that a section of a configuration describes.

    Args:
        name: of the section, for errors.
        kind: the class, or a union of classes.
        section: `class_path` and `init_args`.

    Raises:
        UserError: if an argument is unknown or of the wrong type.
    """
    parser = Parser()
    parser.add_argument(f"--{name}", type=kind)
    return parser.instantiate(parser.parse_object({name: dict(section)}))[name]


def generator_on_meta(section: Mapping[str, Any]) -> DiffusersGenerator | None:
    """The generator of a configuration without its weights; None if its class has no such thing."""
    if not issubclass(import_class(section["class_path"], Generator), DiffusersGenerator):
        return None
    return instantiate(
        "generator", Generator, {**section, "init_args": {**section["init_args"], "load_weights": False}}
    )


def module_options(model: Mapping[str, Any]) -> Namespace:
    """The arguments of a `NoiseHypernetModule` in a configuration's model, without its networks.

    Raises:
        UserError: if one is unknown or of the wrong type.
    """
    parser = Parser()
    parser.add_class_arguments(
        NoiseHypernetModule, "model", skip=set(MODULE_PARTS), instantiate=False, fail_untyped=False
    )
    others = {name: value for name, value in model.items() if name not in MODULE_PARTS}
    return parser.instantiate(parser.parse_object({"model": others})).model


def module_on_meta(
    model: Mapping[str, Any], generator: DiffusersGenerator, load_rewards: bool = False
) -> NoiseHypernetModule | None:
    """The module of a configuration without weights: its networks on the meta device, from their configurations.

    Args:
        model: the configuration's section.
        generator: from `generator_on_meta`.
        load_rewards: whether to load all rewards if the constructor of one, as of your own may be, reads values of
            tensors, which the meta device does not have.

    Returns:
        The module; None if rewards would have to be loaded and `load_rewards` is false.

    Raises:
        UserError, ValueError, OSError: as the constructors, if something is wrong or missing.
    """
    make_reward = partial(instantiate, "reward", RewardEnsemble, model["reward"])
    with torch.device("meta"):
        # Before rewards, of which files may be fetched.
        hypernet = instantiate("hypernet", Trainable, model["hypernet"])
        options = module_options(model)
    try:
        with torch.device("meta"):
            reward = make_reward()
    except RuntimeError:  # what PyTorch raises where a value is asked for
        if not load_rewards:
            return None
        reward = make_reward()
    with torch.device("meta"):
        return NoiseHypernetModule(generator, hypernet, reward, **options)
