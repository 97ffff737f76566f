"""An optimiser's step that the device leaves out by itself, so that the host need not know whether it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

# Whose fused kernels leave weights and moments alone where `found_inf` is 1, and the step counts are counted back.
_FUSED = (torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def skips_on_device(optimizer: torch.optim.Optimizer, has_scaler: bool) -> bool:
    """Whether `DeviceSkip` works for an optimiser: those of `torch.optim` with `fused: true`, and under
    `precision: 16-mixed` what the scaler lets do its work (`_step_supports_amp_scaling`).

    Others count their steps on the host or have no way to be told.
    """
    if has_scaler:
        return getattr(optimizer, "_step_supports_amp_scaling", False)
    # The groups' say counts: a checkpoint brings its own.
    return type(optimizer) in _FUSED and all(group["fused"] for group in optimizer.param_groups)


class DeviceSkip:
    """Has an optimiser's next step change nothing if a number on the device is 1.

    Args:
        optimizer: one that `skips_on_device`.
        is_bad: 1.0 or 0.0, float32 [].
        gradients: of this process, not empty ones; they are NaN in a step that is skipped under a scaler.
        parameters: those that have gradients.
        has_scaler: whether a `torch.amp.GradScaler` takes the step. It tells the optimiser itself, by the gradients.

    Attributes:
        made_state: whether the optimiser has no state yet for some of the parameters, and makes it in this step. What
            SGD makes in a step that is skipped is not initialised (PyTorch 2.14).
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        is_bad: Tensor,
        gradients: Sequence[Tensor],
        parameters: Iterable[Parameter],
        has_scaler: bool,
    ) -> None:
        self._optimizer = optimizer
        self._new = [parameter for parameter in parameters if parameter not in optimizer.state]
        if has_scaler:
            torch._foreach_mul_(gradients, torch.where(is_bad > 0, torch.nan, 1.0))
        else:
            optimizer.found_inf = is_bad

    @property
    def made_state(self) -> bool:
        return bool(self._new)

    def end(self) -> None:
        """After the step."""
        if hasattr(self._optimizer, "found_inf"):
            del self._optimizer.found_inf

    def forget_new_state(self) -> None:
        """Take back the state that was made in a step that was skipped."""
        for parameter in self._new:
            self._optimizer.state.pop(parameter, None)
