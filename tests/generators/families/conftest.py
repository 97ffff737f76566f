"""Numbers of the published implementation on tiny components, and the generators that have to give the same."""

from dataclasses import dataclass
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from hn.generators import PipelineGenerator
from hn.hypernets import LoraHypernet
from tests import published


@dataclass(frozen=True)
class Published:
    """What the published implementation computed, and our generator on the same components.

    Attributes:
        config: of components and LoRA.
        tensors: inputs and outputs by name.
        lora: its weights.
        generator: ours.
        conditioning: of the prompts.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    lora: dict[str, Tensor]
    generator: PipelineGenerator
    conditioning: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def hypernet(self) -> LoraHypernet:
        """Ours, with the published LoRA."""
        settings = self.config["lora"]
        hypernet = LoraHypernet(rank=settings["r"], alpha=settings["lora_alpha"]).build(self.generator)
        hypernet.load_trainable_state_dict(published.trainable(self.lora))
        return hypernet


def read(name: str, generator: PipelineGenerator, outputs: str, lora: str) -> Published:
    folder = published.FIXTURES / name
    tensors = {**load_file(folder / "inputs.safetensors"), **load_file(folder / outputs)}
    _, conditioning = published.inputs_of(name)
    return Published(published.config_of(name), tensors, load_file(folder / lora), generator, conditioning)


@pytest.fixture(scope="module")
def flux() -> Published:
    return read("flux", published.flux(), "outputs.safetensors", "lora.safetensors")


@pytest.fixture(scope="module")
def sana() -> Published:
    return read("sana", published.sana(), "outputs_nonzero.safetensors", "lora_nonzero_init.safetensors")
