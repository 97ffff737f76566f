from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hn.generators import DiffusersGenerator
from hn.generators.families.base import BackboneInputs
from hn.generators.families.stable_diffusion import StableDiffusion
from hn.hypernets import LoraHypernet
from hn.rewards import RednessReward, RewardEnsemble
from hn.training.module import NoiseHypernetModule
from hn.training.planning.plan import GIB, USABLE, optimizer_bytes, plan_update
from tests import tiny_pipelines


@pytest.fixture
def make_on_meta(tiny_pipeline_folder: Path) -> Callable[..., NoiseHypernetModule]:
    """A module whose generator has no weights, of a folder and with the generator's options."""

    def make(folder: Path = tiny_pipeline_folder, **options: object) -> NoiseHypernetModule:
        generator = DiffusersGenerator.build_on_meta(str(folder), **options)
        reward = RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0})
        return NoiseHypernetModule(generator, LoraHypernet(rank=2), reward)

    return make


@pytest.mark.slow
def test_parts_are_those_of_the_loaded_pipeline(
    make_on_meta: Callable[..., NoiseHypernetModule], generator: DiffusersGenerator
) -> None:
    module = make_on_meta()
    plan = plan_update(module, batch_size=4)
    for name, part in generator.components.items():
        assert plan.weights[name] == sum(p.numel() * 4 for p in part.parameters()) + sum(
            b.numel() * b.element_size() for b in part.buffers()
        )
    assert plan.trainable == sum(p.numel() for p in module.hypernet.parameters() if p.requires_grad)
    assert plan.weights["trained"] == plan.gradients == 4 * plan.trainable
    assert plan.optimizer == 8 * plan.trainable  # AdamW
    assert plan.remembered == 1024 * sum(value.nbytes for value in generator.encode(["a cube"]).values())
    assert plan.total == sum(plan.weights.values()) + plan.remembered + plan.optimizer + plan.update.peak
    assert plan.on_cpu == {}


@pytest.mark.slow
def test_the_largest_batch_fits_and_the_next_does_not(make_on_meta: Callable[..., NoiseHypernetModule]) -> None:
    plan = plan_update(make_on_meta(), batch_size=4)
    memory = 3 * plan.total
    largest = plan.largest_batch(memory)
    assert 4 < largest < 40
    assert plan_update(make_on_meta(), largest).total <= USABLE * memory
    assert plan_update(make_on_meta(), largest + 1).total > USABLE * memory * 0.999
    assert plan.largest_batch(plan.fixed) == 0
    assert plan.largest_batch(80 * GIB) > 1000


@pytest.mark.slow
def test_gradients_are_there_all_the_time_when_they_are_accumulated(
    make_on_meta: Callable[..., NoiseHypernetModule],
) -> None:
    once, several = (plan_update(make_on_meta(), 2, accumulate=n) for n in (1, 4))
    assert several.total == once.total + once.gradients


@pytest.mark.slow
def test_conditioning_from_files_needs_no_text_encoders(
    make_on_meta: Callable[..., NoiseHypernetModule], tmp_path: Path
) -> None:
    with_encoders, without = plan_update(make_on_meta(), 2), plan_update(make_on_meta(cache=str(tmp_path)), 2)
    assert with_encoders.weights.keys() - without.weights.keys() == {"text_encoder"}
    assert without.update == with_encoders.update
    assert without.encoding == 0 < with_encoders.encoding


@pytest.mark.slow
def test_offloaded_text_encoders_are_on_the_gpu_while_they_encode(
    make_on_meta: Callable[..., NoiseHypernetModule],
) -> None:
    there, offloaded = plan_update(make_on_meta(), 2), plan_update(make_on_meta(offload_text_encoders=True), 2)
    size = there.weights["text_encoder"]
    assert offloaded.on_cpu == {"text_encoder": size}
    assert offloaded.weights == {name: value for name, value in there.weights.items() if name != "text_encoder"}
    assert offloaded.encoding == there.encoding + size
    assert offloaded.total == there.total - size  # the update takes more than encoding
    large = replace(offloaded, encoding=2 * offloaded.update.peak)
    assert large.total == large.fixed + large.encoding
    memory = (large.fixed + 1.5 * offloaded.update.peak) / USABLE
    assert offloaded.largest_batch(memory) > 2
    assert large.largest_batch(memory) == 0  # it does not fit, whatever the batch


@pytest.mark.slow
def test_prompts_that_are_not_remembered_take_nothing(make_on_meta: Callable[..., NoiseHypernetModule]) -> None:
    assert plan_update(make_on_meta(prompt_cache_size=0), 1).remembered == 0


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["z_image", "qwen_image", "flux2_klein"])
def test_a_pipeline_that_reads_prompts_lengths_is_planned_for_prompts_that_fill_the_window(
    name: str, make_on_meta: Callable[..., NoiseHypernetModule], tmp_path: Path
) -> None:
    case = tiny_pipelines.CASES[name]
    case.build().save_pretrained(tmp_path)
    module = make_on_meta(tmp_path, height=case.size[0], width=case.size[1], family=case.family)
    whole, short = plan_update(module, 1), plan_update(module, 1, prompt="a cat")
    assert whole.weights.keys() == {"text_encoder", "transformer", "vae", "reward redness", "trained"}
    if module.generator.family.reads_conditioning:
        assert whole.update.kept["hypernetwork"] > 2 * short.update.kept["hypernetwork"]
    else:
        assert whole == short  # padded
    assert whole.update.kept["decoder"] == short.update.kept["decoder"]


class Reading(StableDiffusion):
    """Does as the values of the text encoder say."""

    def call_backbone(self, pipe: Any, backbone: nn.Module, inputs: BackboneInputs) -> Tensor:
        if inputs.conditioning["prompt_embeds"].mean() > 0:
            return super().call_backbone(pipe, backbone, inputs)
        return inputs.sample


def test_a_generator_that_depends_on_what_networks_compute_is_refused(
    make_on_meta: Callable[..., NoiseHypernetModule],
) -> None:
    with pytest.raises(ValueError, match="Pipeline cannot be planned: how it runs depends on values that networks"):
        plan_update(make_on_meta(family=Reading()), 1)
