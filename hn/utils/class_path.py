"""Class paths: a configuration file names the class to use as `package.module.Class`."""

import importlib
from collections.abc import Iterable
from pathlib import Path
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


def import_named_in_file(path: str, base: type[T], source: Path, trusted: Iterable[str] = ()) -> type[T]:
    """Import the class that a file names, which may be a download: one of hn's own, or one that the user trusts.

    Args:
        path: the class path.
        base: a class of hn; hn's own subclasses are those in its package.
        source: the file, for errors.
        trusted: class paths that the user names.

    Raises:
        ValueError: if it is another class, of which nothing is imported, or there is no such subclass of `base`.
    """
    package = base.__module__.rpartition(".")[0]
    if path not in trusted and not (path.startswith(f"{package}.") and all(map(str.isidentifier, path.split(".")))):
        raise ValueError(
            f"{source} names the class {path!r}, which is not one of {package}, and to import it runs its code: if you "
            f"know this code, allow it with --trust_remote_code {path} (in Python trust_remote_code=[{path!r}])."
        )
    try:
        return import_class(path, base)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def class_path(cls: type) -> str:
    """The path under which `import_class` finds `cls`."""
    return f"{cls.__module__}.{cls.__qualname__}"
