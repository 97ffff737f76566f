from collections.abc import Callable
from typing import Any

import pytest

from hn.rewards import Reward
from tests.tiny_rewards import TOWERS


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Reward]:
    """A reward of `TOWERS` with the options given, always of the same tiny checkpoint."""
    arguments: dict[str, dict[str, Any]] = {}

    def make(name: str, **options: Any) -> Reward:
        reward, write = TOWERS[name]
        if name not in arguments:
            arguments[name] = write(tmp_path_factory.mktemp(name))
        return reward(**arguments[name], **options)

    return make
