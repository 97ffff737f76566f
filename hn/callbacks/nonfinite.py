"""Updates with a loss or gradient that is not finite are left out, and the run ends if there are too many in a row."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from hn.callbacks.stopping import TrainingStopped
from hn.wording import some_of

log = logging.getLogger(__name__)

SKIPPED = "train/skipped_updates"


class SkipNonFinite(L.Callback):
    """Skips an update whose loss or gradient has a NaN or an infinity, on all processes, and counts it.

    The gradients are dropped, so the optimiser changes neither weights nor its own state (moments, step counts); a
    single bad batch would make all of them NaN for good. The update is used up nevertheless: `global_step`, the
    learning rate's schedule, the noise and the prompts go on as if it had been done, so that a run has as many batches
    with skipped updates as without. With `accumulate_grad_batches` one bad batch skips the update it is part of.
    `train/skipped_updates`, the number so far, is logged and kept in checkpoints.

    Whether to skip has to be known on the host: one number is read off the device for each update, when its gradients
    are there. Under `precision: 16-mixed` the scaler skips updates itself, and an infinite gradient of a finite loss is
    its ordinary way to find a scale; such updates are counted, but not towards the limit.

    Args:
        max_skipped_updates: skipped in a row, after which training stops with a diagnosis.

    Raises:
        ValueError: if `max_skipped_updates` is below 1.
    """

    def __init__(self, max_skipped_updates: int = 5) -> None:
        if max_skipped_updates < 1:
            raise ValueError(f"max_skipped_updates must be at least 1, not {max_skipped_updates}.")
        self.max_skipped_updates = max_skipped_updates
        self.skipped, self._in_a_row = 0, 0
        self._losses: list[Tensor] = []
        self._terms: list[dict[str, Tensor]] = []
        self._diagnosis = ""

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._losses, self._terms = [], []

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())
        # Not Lightning's `callback_metrics`, which waits for the device.
        self._terms.append(getattr(pl_module, "terms", {}))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        is_bad = not_finite([*self._losses, *(p.grad for p in parameters)], trainer.strategy.root_device)
        if trainer.world_size > 1:  # a loss, or a shard of the gradients, may be bad on one process alone
            torch.distributed.all_reduce(is_bad, torch.distributed.ReduceOp.MAX)
        if is_bad.item():
            self._skip(trainer, pl_module, parameters, optimizer)
        else:
            self._in_a_row = 0
        pl_module.log(SKIPPED, float(self.skipped))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Here and not when it is found: the batch is over, and a checkpoint of it can be continued from.
        if self._in_a_row >= self.max_skipped_updates:
            self._in_a_row = 0  # a run that is continued, with other settings, has all its attempts again
            raise TrainingStopped(
                f"The last {self.max_skipped_updates} updates were skipped, up to update {trainer.global_step}: "
                f"{self._diagnosis}"
            )

    def _skip(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        parameters: list[torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.skipped += 1
        bad_loss = any(not bool(torch.isfinite(loss)) for loss in self._losses)
        has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
        if bad_loss or not has_scaler:
            self._in_a_row += 1
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        gradients = {names.get(id(p), "?"): local(p.grad) for p in parameters}
        cause, advice = diagnose(self._terms, gradients, {names.get(id(p), "?"): local(p) for p in parameters})
        rates = ", ".join(f"{group['lr']:.3g}" for group in optimizer.param_groups)
        cause = _of_all_processes(cause, trainer)
        self._diagnosis = f"{cause} The learning rate is {rates}.\n{advice}"
        # A scaler skips the update of such an optimiser itself, by gradients that it has not looked at yet.
        is_scaled = has_scaler and getattr(optimizer, "_step_supports_amp_scaling", False)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter.grad, torch.nan) if is_scaled else None
        if trainer.is_global_zero:
            step = trainer.global_step + 1
            log.warning("Update %d is skipped (%d so far): %s", step, self.skipped, cause)


def not_finite(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """Whether any number of any tensor is NaN or infinite: 1.0 or 0.0, float32 [], on the device, without waiting.

    Args:
        tensors: of any shape and floating dtype; of a sharded one this process's part counts.
        device: where they are.
    """
    tensors = [local(tensor) for tensor in tensors]
    tensors = [tensor for tensor in tensors if tensor.numel() > 0]
    if not tensors:
        return torch.zeros((), device=device)
    # The largest magnitude: unlike the Euclidean norm it overflows for no finite numbers, and NaN gets through.
    largest = torch.nn.utils.get_total_norm(tensors, norm_type=float("inf"))
    return (~torch.isfinite(largest)).float().to(device)


def local(tensor: Tensor) -> Tensor:
    """The tensor, or this process's part of a sharded one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def diagnose(
    terms: Iterable[Mapping[str, Tensor]], gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[str, str]:
    """What was not finite first, in a sentence, and what to try.

    Args:
        terms: of each batch of the update: `loss`, `regulariser`, `reward_<name>` and others, each a number.
        gradients: of the trained parameters by name, in the model's order.
        weights: those parameters.
    """
    bad_terms: dict[str, float] = {}
    for batch in terms:
        for name, value in batch.items():
            if not bool(torch.isfinite(value)):
                bad_terms.setdefault(name, float(value))
    bad_weights = [name for name, weight in weights.items() if not bool(torch.isfinite(weight).all())]
    bad_gradients = [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
    found = []
    if bad_weights:
        found.append(f"the weights themselves are not finite ({some_of(bad_weights)})")
    rewards = {name: value for name, value in bad_terms.items() if name.startswith("reward_")}
    # The parts of a sum say more than the sum.
    parts = rewards | {name: bad_terms[name] for name in ("regulariser",) if name in bad_terms} or bad_terms
    if parts:
        found.append(", ".join(f"{name} is {value}" for name, value in parts.items()))
    if bad_gradients:
        share = f"{len(bad_gradients)} of {len(gradients)} parameters"
        after = "the gradient" if found else "the loss is finite, but its gradient"
        found.append(f"{after} is not finite for {share}, first {bad_gradients[0]}")
    return f"{'; '.join(found) or 'nothing on this process'}.", "\n".join(_advice(bad_weights, rewards, bad_terms))


def _advice(bad_weights: list[str], rewards: Mapping[str, float], terms: Mapping[str, float]) -> list[str]:
    if bad_weights:
        return [
            "Try: continue from an earlier checkpoint (--ckpt_path best), or start anew with a lower learning rate."
        ]
    advice = ["Try: a lower learning rate (--model.optimizer.init_args.lr) or a longer --model.warmup_steps;"]
    advice.append("  gradient clipping (--trainer.gradient_clip_val 1.0), if it is not set;")
    if rewards and "regulariser" not in terms:
        name = next(iter(rewards)).removeprefix("reward_")
        advice.append(f"  the run without the reward {name} (--model.reward.init_args.weights.{name} 0);")
    elif "regulariser" in terms:
        advice.append("  a smaller --model.reward_weight: f has grown without bounds;")
    advice.append("  float32 (--trainer.precision 32-true, and float32 as the dtype of generator and rewards);")
    advice.append("  --trainer.detect_anomaly true, which is slow and names the operation.")
    return advice


def _of_all_processes(cause: str, trainer: L.Trainer) -> str:
    """The cause, with what other processes found where theirs differs."""
    if trainer.world_size == 1:
        return cause
    causes: list[str] = [""] * trainer.world_size
    torch.distributed.all_gather_object(causes, cause)
    by_cause: dict[str, list[str]] = {}
    for rank, other in enumerate(causes):
        by_cause.setdefault(other, []).append(str(rank))
    if len(by_cause) == 1:
        return cause
    return " ".join(f"On process {', '.join(ranks)}: {other}" for other, ranks in by_cause.items())
