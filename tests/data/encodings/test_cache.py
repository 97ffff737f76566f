import pytest
import torch

from hn.data.encodings.cache import PromptCache


class Lengths:
    """Computes a prompt's length and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, prompts: list[str]) -> list[int]:
        self.asked.append(prompts)
        return [len(prompt) for prompt in prompts]


def test_computes_each_missing_prompt_once_and_keeps_the_order() -> None:
    cache, compute = PromptCache[int](10), Lengths()
    assert cache.get(["bb", "a", "bb"], compute) == [2, 1, 2]
    assert cache.get(["a", "ccc", "bb"], compute) == [1, 3, 2]
    assert compute.asked == [["bb", "a"], ["ccc"]]


def test_drops_the_prompt_used_longest_ago() -> None:
    cache, compute = PromptCache[int](2), Lengths()
    cache.get(["a", "b"], compute)
    cache.get(["a"], compute)
    cache.get(["c"], compute)  # drops b
    assert len(cache) == 2
    cache.get(["a", "b"], compute)
    assert compute.asked == [["a", "b"], ["c"], ["b"]]


def test_serves_more_prompts_at_once_than_it_keeps() -> None:
    assert PromptCache[int](1).get(["a", "bb", "ccc"], Lengths()) == [1, 2, 3]
    assert PromptCache[int](0).get(["a", "bb", "a"], Lengths()) == [1, 2, 1]


def test_forgets_on_clear() -> None:
    cache, compute = PromptCache[int](2), Lengths()
    cache.get(["a"], compute)
    cache.clear()
    cache.get(["a"], compute)
    assert len(compute.asked) == 2


def test_values_made_in_inference_mode_take_part_in_backward_passes() -> None:
    cache = PromptCache[torch.Tensor](2)
    with torch.inference_mode():
        (value,) = cache.get(["a"], lambda prompts: [torch.ones(3)])
    factor = torch.ones(3, requires_grad=True)
    (value * factor).sum().backward()
    assert torch.equal(factor.grad, torch.ones(3))


def test_refuses_a_negative_capacity() -> None:
    with pytest.raises(ValueError, match="capacity of 0 or more"):
        PromptCache(-1)
