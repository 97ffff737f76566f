"""`hn plan`: the memory of an experiment's update, before anything is loaded onto a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from hn.cli.instances import generator_on_meta, module_on_meta
from hn.cli.parsing import UserError, user_errors
from hn.cli.preflight import check_training
from hn.training.planning.plan import Plan, plan_update
from hn.training.planning.table import plan_table
from hn.training.planning.update import AUTOCAST
from hn.utils.text import say

_PRECISIONS = {None: "32-true", 32: "32-true", "32": "32-true", "bf16": "bf16-mixed", 16: "16-mixed", "16": "16-mixed"}
"""Lightning's other names."""


def add_plan_options(parser: LightningArgumentParser) -> None:
    """Add the options of `hn plan` to those of an experiment."""
    add = parser.add_argument
    add("--batch_size", type=int | None, help="Images per update and GPU; the data module's if not given.")
    add(
        "--gpu_memory",
        type=list[float],
        default=[24, 48, 80, 141],
        help="Memory of GPUs in GiB; the largest batch of each is shown.",
    )
    add("--prompt", type=str | None, help="Prompt of every image; if not given, and where its length matters, one that "
        "fills the text encoder's window.")  # fmt: skip


def planned_parts(sections: Mapping[str, Any]) -> list[Any]:
    """The parts of a configuration whose files have to be complete; a plan reads only some files of rewards."""
    return [sections["model"]["generator"], sections["data"]]


def without_compilers(model: Namespace) -> None:
    """Switch off, in a configuration's model, what a plan cannot use.

    That is compilation, because compiled layers cannot be traced (they keep about as many activations), and text
    features in files, which do not have the plan's prompts.
    """
    for name in ("generator", "hypernet", "reward"):
        options = model[name].get("init_args") or {}
        if "compile" in options:
            options["compile"] = False
    if "cache" in (model.reward.get("init_args") or {}):
        model.reward.init_args.cache = False


def run_plan(config: Namespace) -> None:
    """Plan an experiment's update, and print a table.

    Raises:
        UserError: as `plan_experiment`, or for what that raises.
    """
    with user_errors():
        plan = plan_experiment(config.clone().as_dict())
        title = f"{config.run.experiment}: one update at batch {plan.batch_size}, counted"
        say(plan_table(plan, title, config.gpu_memory))


def plan_experiment(sections: Mapping[str, Any]) -> Plan:
    """Plan an experiment's update: no weights are read.

    Args:
        sections: the configuration; "model", "data", "trainer" and the command's own options are read: `batch_size`, by
            default the data module's, `gpu_memory` and `prompt`.

    Raises:
        UserError: if a part of the configuration is of a kind that cannot be planned.
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
    with torch.device("meta"):  # where files of weights need not be there
        generator = generator_on_meta(model["generator"])
    if generator is None:
        raise UserError(
            f"Memory can be planned for a DiffusersGenerator, not for a {model['generator']['class_path']}."
        )
    module = module_on_meta(model, generator, load_rewards=True)
    check_training(sections, module)
    return plan_update(module, batch_size, precision, accumulate, sections["prompt"])
