"""A memory plan as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from hn.training.planning.plan import GIB, USABLE, Plan
from hn.training.planning.update import BACKWARD
from hn.utils.tables import as_text, new_table

UNITS = {"GiB": GIB, "MiB": 1 << 20}


def plan_table(plan: Plan, title: str, gpus: Sequence[float]) -> str:
    """Memory by part, its sum, and the largest batch for each GPU.

    Args:
        plan: of one update.
        title: of the table.
        gpus: memory of GPUs in GiB.
    """
    unit = next(((name, size) for name, size in UNITS.items() if plan.total >= size), ("KiB", 1 << 10))
    weights = {name: size for name, size in plan.weights.items() if size and name != "trained"}
    weights["conditioning of prompts, as many as are remembered"] = plan.remembered
    weights["trained weights"] = plan.weights["trained"]
    weights["state of the optimiser"] = plan.optimizer
    if plan.accumulates:
        weights["accumulated gradients"] = plan.gradients
    update = {f"kept for the backward pass: {name}": size for name, size in plan.update.kept.items() if size}
    stage = plan.update.peak_stage
    added = "what the backward pass adds, gradients too" if stage == BACKWARD else f"temporary: {stage}"
    update[added] = plan.update.peak - sum(update.values())
    table = new_table(title)
    table.add_column("part", no_wrap=True)
    table.add_column(unit[0], justify="right", no_wrap=True)
    encoding = {"encoding new prompts, before that": plan.encoding} if plan.encoding else {}
    totals = {f"all, at batch {plan.batch_size}": plan.total, "each image more": plan.each_image}
    on_cpu = {f"{name}, on the CPU": size for name, size in plan.on_cpu.items()}
    for rows in (weights, update, encoding, totals, on_cpu):
        for name, size in rows.items():
            table.add_row(name, f"{size / unit[1]:.2f}")
        if rows:
            table.add_section()
    fits = new_table()
    fits.add_column(f"{USABLE:.0%} of a GPU of", no_wrap=True)
    fits.add_column("largest batch", justify="right", no_wrap=True)
    for gib in gpus:
        fits.add_row(f"{gib:g} GiB", str(plan.largest_batch(gib * GIB) or "none"))
    return as_text(table, fits)
