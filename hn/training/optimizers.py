"""The optimiser of a run that is continued: its state from the checkpoint, its options from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hn.utils.class_path import class_path

RECORD = "hn_optimizer"
"""Key of a checkpoint: class of the optimiser and settings of the schedule, which its state does not name."""


def continue_optimizer(
    checkpoint: dict[str, Any], optimizer: Optimizer, schedule: Mapping[str, Any], factor: Callable[[int], float]
) -> list[str]:
    """Give the optimiser's state in a checkpoint the options of this run, as far as they differ.

    Args:
        checkpoint: changed in place.
        optimizer: with this run's options, of one parameter of any kind.
        schedule: settings of the learning rate's schedule.
        factor: share of the learning rate at an update.

    Returns:
        What changes, like "lr 0.1 -> 0.01".

    Raises:
        ValueError: if the state is one of another class, or lacks what the options need.
    """
    if not checkpoint.get("optimizer_states"):
        return []
    (state,), (scheduler,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    own = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    record = checkpoint.get(RECORD) or {}
    saved = state["param_groups"][0]
    is_other = record.get("class", class_path(type(optimizer))) != class_path(type(optimizer))
    if is_other or not saved.keys() <= {*own, "params", "initial_lr"}:
        raise ValueError(
            f"The checkpoint has the state of another optimiser{_named(record)} than {class_path(type(optimizer))}: "
            "continue with the same model.optimizer, or begin a run of another --run.name without --ckpt_path."
        )
    before = {**saved, "lr": saved.get("initial_lr", saved["lr"])}
    changed = [name for name in own if name in before and _plain(before[name]) != _plain(own[name])]
    if changed:
        _check_state(optimizer, state, changed)
    rate = own["lr"] * factor(scheduler["last_epoch"])
    for group in state["param_groups"]:
        group |= {name: own[name] for name in changed if name != "lr"}
        if "lr" in changed:
            group["initial_lr"] = own["lr"]
        if _plain(group["lr"]) != _plain(rate):
            group["lr"] = rate
    if "lr" in changed:
        scheduler["base_lrs"] = [own["lr"]] * len(scheduler["base_lrs"])
    of_schedule = [name for name, value in schedule.items() if record.get(name, value) != value]
    return [f"{name} {_plain(before[name])} -> {_plain(own[name])}" for name in changed] + [
        f"{name} {record[name]} -> {schedule[name]}" for name in of_schedule
    ]


def _named(record: Mapping[str, Any]) -> str:
    return f" ({record['class']})" if "class" in record else ""


def _plain(value: Any) -> Any:
    """The value as it compares to one that was read from a file."""
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _check_state(optimizer: Optimizer, state: Mapping[str, Any], changed: list[str]) -> None:
    """Try an update of the optimiser's one parameter with a state like the checkpoint's.

    Raises:
        ValueError: if the options need something that the state does not have, like amsgrad.
    """
    of_parameter = next(iter(state["state"].values()), None)
    if of_parameter is None or not type(optimizer).__module__.startswith("torch.optim"):
        return
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad = torch.zeros_like(parameter)
    optimizer.state[parameter] = {
        name: torch.zeros_like(parameter) if isinstance(value, Tensor) and value.ndim else value
        for name, value in of_parameter.items()
    }
    try:
        optimizer.step()
    except KeyError as error:
        raise ValueError(
            f"The checkpoint's state of the optimiser has no {error.args[0]}, which {', '.join(changed)} of this run "
            "needs: continue with the same options, or begin a run of another --run.name without --ckpt_path."
        ) from None
