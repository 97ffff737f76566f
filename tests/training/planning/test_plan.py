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
from hn.generators.subspaces import LowFrequency
from hn.hypernets import Hypernet, LoraHypernet
from hn.hypernets.subspace import SubspaceHypernet
from hn.rewards import RednessReward, RewardEnsemble
from hn.training.estimators import Estimator, ScoreFunction
from hn.training.module import NoiseHypernetModule
from hn.training.planning.plan import GIB, USABLE, Plan, optimizer_bytes, plan_update, sizes_to_follow
from hn.training.planning.update import UpdateMemory
from tests import tiny_pipelines


@pytest.fixture
def make_on_meta(tiny_pipeline_folder: Path) -> Callable[..., NoiseHypernetModule]:
    """A module whose generator has no weights, of a folder and with the generator's options."""

    def make(
        folder: Path = tiny_pipeline_folder,
        hypernet: Hypernet | None = None,
        estimator: Estimator | None = None,
        score_batch_size: int | None = None,
        **options: object,
    ) -> NoiseHypernetModule:
        generator = DiffusersGenerator.build_on_meta(str(folder), **options)
        reward = RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0})
        with torch.device("meta"):
            return NoiseHypernetModule(
                generator,
                hypernet or LoraHypernet(rank=2),
                reward,
                estimator=estimator,
                score_batch_size=score_batch_size,
            )

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


def test_between_the_sizes_that_were_followed_memory_grows_evenly() -> None:
    """Images are scored in parts from 2 of the batch on, which grows by less then."""
    peaks = {1: 40, 2: 80, 6: 100, 7: 110}
    sizes = {"batch_size": 6, "remembered": 0, "trainable": 0, "gradients": 0, "optimizer": 0, "encoding": 0}
    plan = Plan(weights={}, on_cpu={}, update=UpdateMemory({}, 100), peaks=peaks, accumulates=False, **sizes)
    assert plan.each_image == 10
    largest = {
        left: plan.largest_batch((left + 0.01) / USABLE) for left in (39, 79, 80, 84, 85, 99, 100, 109, 110, 150)
    }
    assert largest == {39: 0, 79: 1, 80: 2, 84: 2, 85: 3, 99: 5, 100: 6, 109: 6, 110: 7, 150: 11}


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 3])
def test_the_largest_batch_of_an_estimator_without_gradients(
    size: int | None, make_on_meta: Callable[..., NoiseHypernetModule]
) -> None:
    def make() -> NoiseHypernetModule:
        return make_on_meta(
            hypernet=SubspaceHypernet(frequencies=2, width=16),
            estimator=ScoreFunction(LowFrequency(2), samples=2),
            score_batch_size=size,
        )

    plan = plan_update(make(), batch_size=2)
    assert sizes_to_follow(make(), 2) == [1, 2, 3]
    memory = plan.fixed + 1.5 * plan.update.peak
    largest = plan.largest_batch(memory / USABLE)
    assert largest > 2
    assert plan_update(make(), largest).total <= 1.001 * memory
    assert plan_update(make(), largest + 1).total > 0.999 * memory


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
