"""Updates with a loss or gradient that is not finite are left out, and the run ends if there are too many in a row."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from hn.training.callbacks.last_checkpoint import is_last_update
from hn.training.callbacks.stopping import TrainingStopped
from hn.utils.device import HostCopy
from hn.utils.private.torch import foreach_mul_, foreach_norm, supports_amp_scaling
from hn.utils.text import some_of

# Whose fused kernels leave weights and moments alone where `found_inf` is 1, and the step counts are counted back.
_FUSED = (torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def skips_on_device(optimizer: torch.optim.Optimizer, has_scaler: bool) -> bool:
    """Whether `DeviceSkip` works for an optimiser: those of `torch.optim` with `fused: true`, and under
    `precision: 16-mixed` those whose kernels do the scaler's work.

    Others count their steps on the host or have no way to be told.
    """
    if has_scaler:
        return supports_amp_scaling(optimizer)
    # The groups' say counts: a checkpoint brings its own.
    return type(optimizer) in _FUSED and all(group["fused"] for group in optimizer.param_groups)


class DeviceSkip:
    """Skips an optimizer step on the device, without a host sync, if a number on the device is 1.

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
            foreach_mul_(gradients, torch.where(is_bad > 0, torch.nan, 1.0))
        else:
            optimizer.found_inf = is_bad  # type: ignore[attr-defined]  # what fused optimisers look for

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


def diagnose(
    terms: Iterable[Mapping[str, float]],
    bad_gradients: Sequence[str],
    bad_weights: Sequence[str],
    n_parameters: int,
) -> tuple[str, str]:
    """What was not finite first, in a sentence, and what to try.

    Args:
        terms: of each batch of the update: `loss`, `regulariser`, `reward_<name>` and others.
        bad_gradients: names of the trained parameters whose gradients are not finite, in the model's order.
        bad_weights: names of those that are not finite themselves.
        n_parameters: number of trained parameters.
    """
    bad_terms: dict[str, float] = {}
    for batch in terms:
        for name, value in batch.items():
            if not math.isfinite(value):
                bad_terms.setdefault(name, value)
    found = []
    if bad_weights:
        found.append(f"the weights themselves are not finite ({some_of(bad_weights)})")
    rewards = {name: value for name, value in bad_terms.items() if name.startswith("reward_")}
    # The parts of a sum say more than the sum.
    parts = rewards | {name: bad_terms[name] for name in ("regulariser",) if name in bad_terms} or bad_terms
    if parts:
        found.append(", ".join(f"{name} is {value}" for name, value in parts.items()))
    if bad_gradients:
        share = f"{len(bad_gradients)} of {n_parameters} parameters"
        after = "the gradient" if found else "the loss is finite, but its gradient"
        found.append(f"{after} is not finite for {share}, first {bad_gradients[0]}")
    return f"{'; '.join(found) or 'nothing on this process'}.", "\n".join(_advice(bad_weights, rewards, bad_terms))


def _advice(bad_weights: Sequence[str], rewards: Mapping[str, float], terms: Mapping[str, float]) -> list[str]:
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


log = logging.getLogger(__name__)

SKIPPED = "train/skipped_updates"


class SkipNonFinite(L.Callback):
    """Skips an update whose loss or gradient has a NaN or an infinity, on all processes, and counts it.

    The optimiser changes neither weights nor its own state (moments, step counts); a single bad batch would make all of
    them NaN for good. The update is used up nevertheless: `global_step`, the learning rate's schedule, the noise and
    the prompts advance as if it had been done, so that a run has as many batches with skipped updates as without. With
    `accumulate_grad_batches` one bad batch skips the update it is part of. `train/skipped_updates`, the number so far,
    is logged and kept in checkpoints.

    PyTorch's fused optimisers (`fused: true`) skip on the device, and the host does not wait to know whether they do.
    It reads what was found one update later, always, and before a checkpoint, a validation and the end. So the warning
    comes an update later, and so does the end after too many in a row, whether or not the update between is a good
    one. (The first update of an optimiser without state is waited for.) With any other optimiser the host has to know,
    and waits at each update until its gradients are there.

    It also warns of a validation whose score is not finite where a `ModelCheckpoint` or `EarlyStopping` monitors it.

    Under `precision: 16-mixed` the scaler skips updates itself, and an infinite gradient of a finite loss is its
    ordinary way to find a scale; such updates are counted, but not towards the limit.

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
        self._terms: list[Mapping[str, Tensor]] = []
        self._trainer: L.Trainer | None = None
        self._begin()

    def _begin(self) -> None:
        self._count: Tensor | None = None  # `skipped` on the device, and ahead of it
        self._unread: deque[_Update] = deque()
        self._skip: DeviceSkip | None = None
        self._has_stepped = False
        self._stop = ""

    def state_dict(self) -> dict[str, Any]:
        self._read()
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin()
        self._trainer = trainer
        self._count = torch.full((), float(self.skipped), device=trainer.strategy.root_device)

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
        here = [p for p in parameters if local(p.grad).numel() > 0]  # of a sharded one there may be nothing
        gradients = [local(p.grad) for p in here]
        finite = torch.isfinite(torch.stack([*self._losses, *magnitudes(gradients)]))
        n_losses = len(self._losses)
        flags = torch.stack([~finite.all(), ~finite[:n_losses].all()]).float()
        if trainer.world_size > 1:  # a loss, or a shard of the gradients, may be bad on one process alone
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        is_bad, has_bad_loss = flags.unbind()
        assert self._count is not None  # since on_train_start
        self._count = self._count + is_bad
        pl_module.log(SKIPPED, self._count)  # a number of the host would have to be sent to the device
        values = [value for terms in self._terms for value in terms.values()]
        self._unread.append(
            _Update(
                number=trainer.global_step + 1,
                rates=[group["lr"] for group in optimizer.param_groups],
                parameters=here,
                terms=[tuple(terms) for terms in self._terms],
                found=HostCopy(torch.cat([torch.stack([is_bad, has_bad_loss, *values]), finite[n_losses:]])),
            )
        )
        has_scaler = _has_scaler(trainer)
        if skips_on_device(optimizer, has_scaler):
            self._skip = DeviceSkip(optimizer, is_bad, gradients, parameters, has_scaler)
        elif self._read():
            for parameter in parameters:
                parameter.grad = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._skip is not None:
            skip, self._skip = self._skip, None
            self._end_skip(skip, trainer)
        # Here and not when it is found: the batch is over, and a checkpoint of it can be continued from.
        self._stop_if_found()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._read()
        self._stop_if_found()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of scores that are not finite, where another callback waits for them."""
        for callback in trainer.callbacks:
            monitor = callback.monitor if isinstance(callback, ModelCheckpoint | EarlyStopping) else None
            value = trainer.callback_metrics.get(monitor or "")
            if value is not None and not math.isfinite(value):
                rank_zero_warn(
                    f"{monitor}, which {type(callback).__name__} monitors, is {float(value)} after update "
                    f"{trainer.global_step}: this validation cannot be the best one."
                )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._read()
        self._trainer = None

    def _end_skip(self, skip: DeviceSkip, trainer: L.Trainer) -> None:
        """After a step that the device may have left out: read about the one before, or about this one too."""
        skip.end()
        if skip.made_state and not self._has_stepped:
            if self._read():
                skip.forget_new_state()
            else:
                self._has_stepped = True
        else:
            self._read(but=0 if is_last_update(trainer) else 1)

    def _stop_if_found(self) -> None:
        if self._stop:
            message, self._stop = self._stop, ""
            raise TrainingStopped(message)

    def _read(self, but: int = 0) -> bool:
        """Read what was found of the updates that it has not been read of, `but` for the last so many; whether the last
        one that was read is bad."""
        is_bad = False
        while len(self._unread) > but:
            is_bad = self._take_in(self._unread.popleft())
        return is_bad

    def _take_in(self, update: _Update) -> bool:
        found = update.read()
        if not found.is_bad:
            self._in_a_row = 0
            return False
        trainer = self._trainer
        assert trainer is not None  # until on_train_end, which has read all updates
        self.skipped += 1
        if found.has_bad_loss or not _has_scaler(trainer):
            self._in_a_row += 1
        all_names = {id(parameter): name for name, parameter in trainer.lightning_module.named_parameters()}
        names = [all_names.get(id(parameter), "?") for parameter in update.parameters]
        # Looked at now: if they are bad, every update since then was skipped, and if not, this one did not change it.
        weights = magnitudes([local(parameter.detach()) for parameter in update.parameters])
        bad_weights = [name for name, size in zip(names, weights, strict=True) if not math.isfinite(size)]
        bad_gradients = [name for name, is_finite in zip(names, found.gradients, strict=True) if not is_finite]
        cause, advice = diagnose(found.terms, bad_gradients, bad_weights, len(names))
        cause = _of_all_processes(cause, trainer)
        if trainer.is_global_zero:
            log.warning("Update %d is skipped (%d so far): %s", update.number, self.skipped, cause)
        if self._in_a_row >= self.max_skipped_updates:
            self._in_a_row = 0  # a run that is continued, with other settings, has all its attempts again
            rates = ", ".join(f"{float(rate):.3g}" for rate in update.rates)
            self._stop = (
                f"The last {self.max_skipped_updates} updates were skipped, up to update {update.number}: {cause} "
                f"The learning rate is {rates}.\n{advice}"
            )
        return True


@dataclass(frozen=True)
class _Update:
    """An update whose gradients are there, and what is found of it on the device.

    Attributes:
        number: counted from 1.
        rates: learning rates of the optimiser's groups.
        parameters: those with gradients on this process.
        terms: names of the terms of each batch's loss.
        found: 1 if the update is bad on any process, 1 if a loss is, the values of the terms, and 1 for each finite one
            of the gradients of this process.
    """

    number: int
    rates: Sequence[float | Tensor]
    parameters: Sequence[Parameter]
    terms: Sequence[Sequence[str]]
    found: HostCopy

    def read(self) -> _Found:
        """Wait for what is found, if need be."""
        is_bad, has_bad_loss, *numbers = self.found.read()
        values = iter(numbers)
        terms = [dict(zip(names, islice(values, len(names)), strict=True)) for names in self.terms]
        return _Found(is_bad > 0, has_bad_loss > 0, terms, [*values])


@dataclass(frozen=True)
class _Found:
    """`_Update.found` on the host; of the gradients, 1 for each finite one."""

    is_bad: bool
    has_bad_loss: bool
    terms: Sequence[Mapping[str, float]]
    gradients: Sequence[float]


def magnitudes(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The largest magnitude in each of some tensors, NaN where there is one, on their device, without waiting.

    Unlike the Euclidean norm it overflows for no finite numbers.

    Args:
        tensors: of any shape but empty ones, and any floating dtype, which the magnitudes have too.
    """
    return foreach_norm(tensors, float("inf")) if tensors else ()


def local(tensor: Tensor) -> Tensor:
    """The tensor, or this process's part of a sharded one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _has_scaler(trainer: L.Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


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
