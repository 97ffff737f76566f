"""Class paths: a configuration file names the class to use as `package.module.Class`."""

import importlib
from typing import TypeVar

T = TypeVar("T")


def import_class(path: str, base: type[T]) -> type[T]:
    """Import the class at `path`, which must be a subclass of `base`.

    Raises:
        ValueError: if there is no such class, or it is not a subclass of `base`.
    """
    module_name, _, class_name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"No class at {path!r} ({error}); give the full path, like package.module.Class.") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{path!r} is not a subclass of {class_path(base)}.")
    return found


def class_path(cls: type) -> str:
    """The path under which `import_class` finds `cls`."""
    return f"{cls.__module__}.{cls.__qualname__}"
