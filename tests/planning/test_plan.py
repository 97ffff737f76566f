from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet
from hn.module import NoiseHypernetModule
from hn.planning.plan import GIB, USABLE, optimizer_bytes, plan_update
from hn.rewards import RednessReward, RewardEnsemble
from tests import tiny_pipelines


@pytest.fixture
def make_outline(tiny_pipeline_folder: Path) -> Callable[..., NoiseHypernetModule]:
    """A module whose generator has no weights, of a folder and with the generator's options."""

    def make(folder: Path = tiny_pipeline_folder, **options: object) -> NoiseHypernetModule:
        generator = DiffusersGenerator.outline(str(folder), **options)
        reward = RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0})
        return NoiseHypernetModule(generator, LoraHypernet(rank=2), reward)

    return make


def test_parts_are_those_of_the_loaded_pipeline(
    make_outline: Callable[..., NoiseHypernetModule], generator: DiffusersGenerator
) -> None:
    module = make_outline()
    plan = plan_update(module, batch_size=4)
    for name, part in generator.components.items():
        assert plan.weights[name] == sum(p.numel() * 4 for p in part.parameters()) + sum(
            b.numel() * b.element_size() for b in part.buffers()
        )
    assert plan.trainable == sum(p.numel() for p in module.hypernet.parameters() if p.requires_grad)
    assert plan.weights["trained"] == plan.gradients == 4 * plan.trainable
    assert plan.optimizer == 8 * plan.trainable  # AdamW
    assert plan.total == sum(plan.weights.values()) + plan.optimizer + plan.update.peak


def test_the_largest_batch_fits_and_the_next_does_not(make_outline: Callable[..., NoiseHypernetModule]) -> None:
    plan = plan_update(make_outline(), batch_size=4)
    memory = 3 * plan.total
    largest = plan.largest_batch(memory)
    assert 4 < largest < 40
    assert plan_update(make_outline(), largest).total <= USABLE * memory
    assert plan_update(make_outline(), largest + 1).total > USABLE * memory * 0.999
    assert plan.largest_batch(plan.fixed) == 0
    assert plan.largest_batch(80 * GIB) > 1000


def test_gradients_are_there_all_the_time_when_they_are_accumulated(
    make_outline: Callable[..., NoiseHypernetModule],
) -> None:
    once, several = (plan_update(make_outline(), 2, accumulate=n) for n in (1, 4))
    assert several.total == once.total + once.gradients


def test_conditioning_from_files_needs_no_text_encoders(
    make_outline: Callable[..., NoiseHypernetModule], tmp_path: Path
) -> None:
    with_encoders, without = plan_update(make_outline(), 2), plan_update(make_outline(cache=str(tmp_path)), 2)
    assert with_encoders.weights.keys() - without.weights.keys() == {"text_encoder"}
    assert without.update == with_encoders.update


@pytest.mark.parametrize(
    ("factory", "bytes_each"),
    [(torch.optim.AdamW, 8), (partial(torch.optim.SGD, lr=1, momentum=0.9), 4), (partial(torch.optim.SGD, lr=1), 0)],
    ids=["adamw", "momentum", "sgd"],
)
def test_the_state_of_an_optimiser(factory: Callable, bytes_each: int) -> None:
    parameters = [nn.Parameter(torch.zeros(10, 3)), nn.Parameter(torch.zeros(7, device="meta"))]
    assert optimizer_bytes(factory, parameters) == 37 * bytes_each
    half = [nn.Parameter(torch.zeros(10, dtype=torch.bfloat16))]
    assert optimizer_bytes(factory, half) == 10 * bytes_each / 2


@pytest.mark.parametrize("name", ["z_image", "qwen_image"])
def test_a_pipeline_that_depends_on_values_is_refused(
    name: str, make_outline: Callable[..., NoiseHypernetModule], tmp_path: Path
) -> None:
    getattr(tiny_pipelines, name)().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Pipeline cannot be planned: how it runs depends on the values"):
        plan_update(make_outline(tmp_path, height=64, width=64), 1)
