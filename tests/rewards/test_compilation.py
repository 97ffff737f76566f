import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hn.rewards import RednessReward, Reward, RewardEnsemble
from hn.utils import layers as compilation
from hn.utils.layers import compile_layers, has_compiler

PROMPTS = ["a red cube", "two blue ball", "a photo of the green ball"]
CLASSES = ("clip", "pickscore", "hpsv2", "aesthetic", "image_reward")


@pytest.fixture(autouse=True)
def _forget_graphs() -> None:
    torch.compiler.reset()


class CountingBackend:
    """Runs graphs as they are, and counts how many there were and how often they ran."""

    def __init__(self) -> None:
        self.graphs = self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


def _gradient(score: Callable[..., Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_(True)
    scores = score(images, PROMPTS[: len(images)])
    return scores.detach(), torch.autograd.grad(scores.sum(), images)[0]


def _assert_same(score: Callable[..., Tensor], expected: tuple[Tensor, Tensor], images: Tensor) -> None:
    scores, gradient = _gradient(score, images)
    torch.testing.assert_close(scores, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-4 * expected[1].abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["clip", *(pytest.param(name, marks=pytest.mark.slow) for name in CLASSES if name != "clip")]
)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_compiled_tower_is_the_same_function(
    make: Callable[..., Reward], name: str, gradient_checkpointing: bool
) -> None:
    reward = make(name, gradient_checkpointing=gradient_checkpointing)
    images, names = torch.rand(3, 3, 40, 36), list(reward.state_dict())
    expected = [_gradient(reward, images[:count]) for count in (2, 3)]
    compile_layers(reward.image_layers(), backend="aot_eager")
    for each, count in zip(expected, (2, 3), strict=True):
        _assert_same(reward, each, images[:count])
    with torch.no_grad():
        torch.testing.assert_close(reward(images, PROMPTS), expected[1][0], rtol=1e-4, atol=1e-5)
    assert list(reward.state_dict()) == names


@pytest.mark.parametrize(("gradient_checkpointing", "runs"), [(False, 2), (True, 4)])
def test_layers_share_a_graph_and_are_still_checkpointed(
    make: Callable[..., Reward], gradient_checkpointing: bool, runs: int
) -> None:
    reward, backend = make("clip", gradient_checkpointing=gradient_checkpointing), CountingBackend()
    compile_layers(reward.image_layers(), backend=backend)
    _gradient(reward, torch.rand(2, 3, 32, 32))
    assert (backend.graphs, backend.runs) == (1, runs)  # of two layers


@pytest.mark.slow
@pytest.mark.skipif(
    "recompile_limit" not in inspect.signature(torch.compile).parameters, reason="this torch has one limit for all"
)
def test_many_towers_do_not_reach_the_limit_of_graphs(make: Callable[..., Reward]) -> None:
    """Layers of these nine are of one class; torch's own limit is eight graphs."""
    backend, rewards = CountingBackend(), []
    for name in ("clip", "pickscore", "aesthetic"):
        for dtype in ("float32", "float64", "bfloat16"):
            rewards.append(make(name, dtype=dtype))
            compile_layers(rewards[-1].image_layers(), backend=backend)
    for count in (1, 2, 3):
        for reward in rewards:
            _gradient(reward, torch.rand(count, 3, 32, 32))
            with torch.no_grad():
                reward(torch.rand(count, 3, 32, 32), PROMPTS[:count])
    before = backend.runs
    for reward in rewards:
        reward(torch.rand(2, 3, 32, 32, requires_grad=True), PROMPTS[:2])
    assert backend.graphs > 8 and backend.runs - before == 2 * len(rewards)


def test_an_ensemble_compiles_what_it_trains_on(make: Callable[..., Reward], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CountingBackend()
    monkeypatch.setattr("hn.rewards.ensemble.compile_layers", lambda layers: compile_layers(layers, backend))
    rewards = {"clip": make("clip"), "red": RednessReward()}
    ensemble = RewardEnsemble(rewards, {"clip": 0.01, "red": 1.0}, {"pickscore": make("pickscore")}, compile=True)
    images = torch.rand(2, 3, 32, 32)
    ensemble.score_held_out(images, PROMPTS[:2])
    assert backend.runs == 0
    expected = _gradient(RewardEnsemble({"clip": make("clip"), "red": RednessReward()}, ensemble.weights).total, images)
    _assert_same(ensemble.total, expected, images)
    assert backend.runs == 2
    with pytest.raises(ValueError, match=r"nothing to compile: none of \['red'\] has an image tower"):
        RewardEnsemble({"red": RednessReward()}, compile=True)


def test_missing_compilers_are_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="compile: true needs a C\\+\\+ compiler, and none is found"):
        RewardEnsemble({"red": RednessReward()}, compile=True)
    compile_layers([nn.Linear(2, 2)], backend="aot_eager")  # needs none


def test_a_platform_without_torch_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError("Python 3.99+ not yet supported for torch.compile")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(ValueError, match="needs torch.compile, which does not run here: Python 3.99"):
        RewardEnsemble({"red": RednessReward()}, compile=True)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="inductor writes C++, and this machine has no compiler")
def test_an_ensemble_compiled_by_inductor_gives_the_same_scores_and_gradients(make: Callable[..., Reward]) -> None:
    def rewards(**options: Any) -> dict[str, Reward]:
        return {name: make(name, **options) for name in ("clip", "hpsv2", "image_reward")}

    images = torch.rand(2, 3, 40, 36)
    expected = _gradient(RewardEnsemble(rewards()).total, images)
    for checkpointing in (False, True):
        ensemble = RewardEnsemble(rewards(gradient_checkpointing=checkpointing), compile=True)
        _assert_same(ensemble.total, expected, images)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
