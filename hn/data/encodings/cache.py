"""A least-recently-used cache of the outputs of a frozen network, by prompt."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class PromptCache(Generic[T]):
    """Values by prompt. Missing ones are computed in one call, and the last `capacity` used ones are kept.

    Values are computed without gradients, but outside inference mode: autograd refuses tensors that were created inside
    `torch.inference_mode` (where Lightning validates) in a later backward pass.
    """

    def __init__(self, capacity: int):
        if capacity < 0:
            raise ValueError(f"The prompt cache needs a capacity of 0 or more, not {capacity}.")
        self.capacity = capacity
        self._values: OrderedDict[str, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._values

    def clear(self) -> None:
        """Remove all values, for example after the network was moved to another device."""
        self._values.clear()

    def get(self, prompts: Sequence[str], compute: Callable[[list[str]], Sequence[T]]) -> list[T]:
        """Values of `prompts`, in their order. `compute` gets each missing prompt once, in order of appearance."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._values]
        fresh: dict[str, T] = {}
        if missing:
            with torch.inference_mode(False), torch.no_grad():
                fresh = dict(zip(missing, compute(missing), strict=True))
        values = [fresh[prompt] if prompt in fresh else self._values[prompt] for prompt in prompts]
        for prompt, value in zip(prompts, values, strict=True):
            self._values[prompt] = value
            self._values.move_to_end(prompt)
        while len(self._values) > self.capacity:
            self._values.popitem(last=False)
        return values
