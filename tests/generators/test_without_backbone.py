"""Generators that are known as a function alone: what serves without a backbone, and what is refused."""

from pathlib import Path

import pytest
import torch

from hn.generators import DiffusersGenerator
from hn.generators.noise import seeded
from hn.generators.subspaces import LowFrequency
from hn.hypernets import Hypernet, LoraFinetune, LoraHypernet
from hn.hypernets.conv import ConvHypernet
from hn.hypernets.saving import describe_base
from hn.hypernets.subspace import SubspaceHypernet
from hn.rewards import RednessReward, RewardEnsemble
from hn.search.reno import Reno
from hn.training.estimators import ScoreFunction
from hn.training.module import NoiseHypernetModule
from tests.function_generator import FunctionGenerator

PROMPTS = ["a red ball", "two cube"]
BATCH = {"prompt": PROMPTS, "metadata": [{"prompt": text} for text in PROMPTS], "index": torch.tensor([0, 1])}
COMPACT = {
    "conv": lambda: ConvHypernet(width=8, blocks=1, heads=2, grid=4, text_width=12),
    "subspace": lambda: SubspaceHypernet(frequencies=2, width=16, layers=1, queries=2, text_width=12),
}


@pytest.fixture
def function(generator: DiffusersGenerator) -> FunctionGenerator:
    return FunctionGenerator(generator)


def make_module(generator, network, **options) -> NoiseHypernetModule:
    reward = RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0})
    return NoiseHypernetModule(generator, network, reward, **options)


def test_it_says_where_it_is_and_what_it_has(function: FunctionGenerator) -> None:
    assert not function.has_backbone and function.backbone_class is None and function.digest() == {}
    assert (function.device, function.dtype) == (torch.device("cpu"), torch.float32)
    function.register_buffer("own", torch.zeros(1, dtype=torch.float64))
    assert function.dtype == torch.float64
    assert function.sample_noise(2).shape == (2, *function.noise_shape)
    assert describe_base(function)["backbone"] is None


@pytest.mark.parametrize("name", COMPACT)
def test_a_compact_hypernetwork_trains_on_it_as_on_the_pipeline(
    name: str, function: FunctionGenerator, generator: DiffusersGenerator
) -> None:
    gradients = []
    for base in (generator, function):
        estimator = ScoreFunction(LowFrequency(2), samples=4)
        module = make_module(base, COMPACT[name](), estimator=estimator, reward_weight=10.0)
        module.check_training(None)
        torch.nn.init.normal_(module.hypernet.out.weight, std=0.01, generator=seeded(0))
        module.training_step(BATCH, 0).backward()
        gradients.append({key: p.grad for key, p in module.hypernet.named_parameters()})
    assert all(torch.equal(gradient, gradients[1][key]) for key, gradient in gradients[0].items())
    assert all(gradient.norm() > 0 for gradient in gradients[1].values())


def test_its_checkpoints_are_of_it_alone(function: FunctionGenerator, generator: DiffusersGenerator) -> None:
    module = make_module(function, COMPACT["conv"](), estimator=ScoreFunction(LowFrequency(2)))
    checkpoint: dict = {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["hn_model"]["backbone"].endswith("FunctionGenerator")
    module.on_load_checkpoint(dict(checkpoint))
    other = make_module(generator, COMPACT["conv"](), estimator=ScoreFunction(LowFrequency(2)))
    with pytest.raises(ValueError, match="backbone is .*FunctionGenerator there"):
        other.on_load_checkpoint(dict(checkpoint))


def test_what_was_trained_on_it_is_saved_and_loaded(
    function: FunctionGenerator, generator: DiffusersGenerator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hypernet = COMPACT["conv"]().build(function)
    torch.nn.init.normal_(hypernet.out.weight)
    hypernet.save_pretrained(tmp_path)
    noise, conditioning = function.sample_noise(2), function.encode(PROMPTS)
    assert torch.equal(Hypernet.from_pretrained(tmp_path, function)(noise, conditioning), hypernet(noise, conditioning))
    assert not caplog.records
    Hypernet.from_pretrained(tmp_path, generator)
    assert "was trained for function and is now used with" in caplog.text


def test_what_needs_the_backbone_is_refused(function: FunctionGenerator) -> None:
    with pytest.raises(ValueError, match="FunctionGenerator has no backbone, on whose layers LoRA works"):
        LoraHypernet(rank=2).build(function)
    with pytest.raises(ValueError, match="needs the generator of a pipeline, not a FunctionGenerator"):
        LoraFinetune(rank=2).build(function)
    with pytest.raises(ValueError, match="does not say how its backbone is called"):
        function.first_step(torch.nn.Identity(), function.sample_noise(1), {})


def test_what_needs_gradients_is_refused(function: FunctionGenerator) -> None:
    module = make_module(function, COMPACT["conv"]())
    with pytest.raises(ValueError, match="FunctionGenerator gives no gradients: .*ScoreFunction"):
        module.check_training(None)
    with pytest.raises(ValueError, match="Reno follows gradients, which a FunctionGenerator does not give"):
        Reno(iterations=2).check(function)
