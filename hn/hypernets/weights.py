"""The trainable weights of a module: what is saved, and loaded without guessing."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hn.utils.distributed import full_tensor, shard_like
from hn.utils.errors import InputError
from hn.utils.text import differences, some_of


def trainable_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that take gradients, by name, detached (not copied).

    Those that several processes share are gathered, so all processes must call this.
    """
    return {name: full_tensor(parameter.detach()) for name, parameter in _trainable(module).items()}


def load_trainable_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the parameters that take gradients; they must match exactly, in names and shapes.

    Raises:
        ValueError: if a name is missing or unexpected, a shape differs, or a weight is not finite; nothing is changed
            then.
    """
    own = _trainable(module)
    problems = differences(
        {
            "missing": own.keys() - state.keys(),
            "unexpected": state.keys() - own.keys(),
            "of another shape": {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape},
        }
    )
    if problems:
        raise ValueError(f"The weights do not fit this {type(module).__name__}: {problems}.")
    bad = [name for name, tensor in state.items() if not tensor.is_meta and not tensor.isfinite().all()]
    if bad:
        raise InputError(
            f"The weights of this {type(module).__name__} are not finite: {len(bad)} of {len(state)} have NaN or "
            f"infinite values ({some_of(bad)}). They make no images; take an earlier checkpoint, or train again."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(shard_like(state[name], tensor))


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
