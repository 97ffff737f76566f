"""The memory of an experiment's update, before anything is loaded onto a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jsonargparse import Namespace

from hn.cli.instances import instantiate, instantiate_on_meta, module_options
from hn.cli.parsing import UserError
from hn.hypernets import Trainable
from hn.rewards.ensemble import RewardEnsemble
from hn.training.module import NoiseHypernetModule
from hn.training.planning.plan import Plan, plan_update
from hn.training.planning.update import AUTOCAST

_PRECISIONS = {None: "32-true", 32: "32-true", "32": "32-true", "bf16": "bf16-mixed", 16: "16-mixed", "16": "16-mixed"}
"""Lightning's other names."""


def without_machine(model: Namespace) -> None:
    """Switch off, in a configuration's model, what a plan does not need: compilers (compiled layers cannot be followed,
    and keep much the same) and text features in files, which have no prompts of the plan's.
    """
    for name in ("generator", "hypernet", "reward"):
        options = model[name].get("init_args") or {}
        if "compile" in options:
            options["compile"] = False
    if "cache" in (model.reward.get("init_args") or {}):
        model.reward.init_args.cache = False


def plan_experiment(sections: Mapping[str, Any]) -> Plan:
    """Plan an experiment's update: no weights are read.

    Args:
        sections: the configuration; "model", "data", "trainer" and the verb's own options `batch_size`, by default the
            data module's, `gpu_memory` and `prompt` are read.

    Raises:
        UserError: if the configuration has something that cannot be planned with.
        ValueError: as `plan_update`.
    """
    data, trainer, model = sections["data"], sections["trainer"], sections["model"]
    if not sections["gpu_memory"] or min(sections["gpu_memory"]) <= 0:
        raise UserError(f"gpu_memory takes one GPU or more, each in GiB, not {sections['gpu_memory']}.")
    batch_size = sections["batch_size"]
    if batch_size is None:
        batch_size = ((data or {}).get("init_args") or {}).get("batch_size")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError("The data module does not say how large a batch is: give --batch_size, at least 1.")
    precision = _PRECISIONS.get(trainer.get("precision"), trainer.get("precision"))
    if precision not in AUTOCAST:
        raise UserError(f"Memory can be planned for the precisions {', '.join(AUTOCAST)}, not for {precision}.")
    accumulate = trainer.get("accumulate_grad_batches") or 1
    return plan_update(module_on_meta(model), batch_size, precision, accumulate, sections["prompt"])


def module_on_meta(model: Mapping[str, Any]) -> NoiseHypernetModule:
    """The module of a configuration without weights: its networks on the meta device, from their configurations.

    Rewards of classes that look at values when they are made are loaded, all rewards with them.

    Raises:
        UserError: if the generator is of a class that has no such thing.
        ValueError, OSError: if something is wrong or missing.
    """
    with torch.device("meta"):
        generator = instantiate_on_meta(model["generator"])
    if generator is None:
        raise UserError(
            f"Memory can be planned for a DiffusersGenerator, not for a {model['generator']['class_path']}."
        )
    make_reward = partial(instantiate, "reward", RewardEnsemble, model["reward"])
    try:
        with torch.device("meta"):
            reward = make_reward()
    except RuntimeError:  # what PyTorch raises where a value is asked for
        reward = make_reward()
    with torch.device("meta"):
        hypernet = instantiate("hypernet", Trainable, model["hypernet"])
        return NoiseHypernetModule(generator, hypernet, reward, **module_options(model))
