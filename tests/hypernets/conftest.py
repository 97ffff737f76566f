"""A tiny SANA-Sprint with the weights of the parity fixtures."""

import pytest
from torch import Tensor

from hn.generators import Conditioning, PipelineGenerator
from tests import published


@pytest.fixture(scope="session")
def sana() -> PipelineGenerator:
    """The tiny SANA-Sprint in float32, shared: tests leave it as it is."""
    return published.sana()


@pytest.fixture(scope="session")
def sana_inputs() -> tuple[Tensor, Conditioning]:
    """Noise x0 [4, 4, 8, 8] and the conditioning of four prompts."""
    return published.inputs_of("sana")
