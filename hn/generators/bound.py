"""What networks and subspaces that belong to one generator have in common."""

from __future__ import annotations

from torch import nn

from hn.generators.base import Generator


class BoundToGenerator(nn.Module):
    """A module that is described without a generator, so that a configuration file can, and bound to one by `build`."""

    def __init__(self) -> None:
        super().__init__()
        # In a tuple: as an attribute of its own, the generator would become part of this module.
        self._built_on: tuple[Generator, ...] = ()

    @property
    def generator(self) -> Generator:
        """The frozen generator this module is bound to, which is not changed by it.

        Raises:
            RuntimeError: before `build`.
        """
        if not self._built_on:
            raise RuntimeError(f"{type(self).__name__} is not bound to a generator yet; call build(generator) first.")
        return self._built_on[0]
