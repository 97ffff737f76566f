"""A least-recently-used cache of what a frozen network computed for a prompt."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class PromptCache(Generic[T]):
    """Maps prompts to values, computes the missing ones in one call and keeps the `capacity` used last.

    Values are computed without gradients and outside inference mode: a tensor made inside `torch.inference_mode`
    (Lightning validates there) could not take part in a later backward pass.
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
        """Forget everything, for example after the network moved to another device."""
        self._values.clear()

    def get(self, prompts: Sequence[str], compute: Callable[[list[str]], Sequence[T]]) -> list[T]:
        """Values of `prompts`, in their order; `compute` sees each missing prompt once, in order of appearance."""
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
