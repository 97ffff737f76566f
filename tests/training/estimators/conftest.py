"""A generator whose images are its noise, for estimators whose exact gradients are known."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from hn.generators.base import Conditioning, Generator


class Identity(Generator):
    """Images are the noise itself, [3, 4, 6]."""

    name, revision, noise_shape, last_layer, steps = "identity", None, (3, 4, 6), "linear", 1

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)

    @property
    def backbone(self) -> nn.Module:
        return self.network

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return {"prompt_embeds": torch.zeros(len(prompts), 1)}

    def generate(self, noise: Tensor, conditioning: Conditioning, steps=None, rng=None) -> Tensor:
        return noise

    def first_step(self, backbone: nn.Module, noise: Tensor, conditioning: Conditioning) -> Tensor:
        return noise


@pytest.fixture
def identity() -> Generator:
    return Identity()
