"""Single objects of a configuration, without an experiment around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from hn.cli.parsing import Parser
from hn.generators.base import Generator
from hn.generators.pipeline import DiffusersGenerator
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


def instantiate_on_meta(section: Mapping[str, Any]) -> DiffusersGenerator | None:
    """The generator of a configuration without its weights; None if its class has no such thing."""
    if not issubclass(import_class(section["class_path"], Generator), DiffusersGenerator):
        return None
    return instantiate(
        "generator", Generator, {**section, "init_args": {**section["init_args"], "load_weights": False}}
    )


def module_options(model: Mapping[str, Any]) -> Namespace:
    """The arguments of a `NoiseHypernetModule` that a configuration's model has, but for its networks.

    Raises:
        UserError: if one is unknown or of the wrong type.
    """
    parser = Parser()
    parser.add_class_arguments(
        NoiseHypernetModule, "model", skip=set(MODULE_PARTS), instantiate=False, fail_untyped=False
    )
    others = {name: value for name, value in model.items() if name not in MODULE_PARTS}
    return parser.instantiate(parser.parse_object({"model": others})).model
