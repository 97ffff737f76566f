import copy
import math
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from hn.training.callbacks.last_checkpoint import LastCheckpoint
from hn.training.callbacks.nonfinite import SkipNonFinite, diagnose, magnitudes
from hn.training.callbacks.stopping import TrainingStopped

NAN, INF = math.nan, math.inf

ADAMW = torch.optim.AdamW
FUSED_ADAMW = partial(torch.optim.AdamW, fused=True)
FUSED_SGD = partial(torch.optim.SGD, momentum=0.9, fused=True)


class Poison(Callback):
    """Makes what a training step gives not finite, at some of the batches of a run, on one process.

    Args:
        batches: their numbers.
        kind: "loss" adds a constant, "reward" scores NaN, "gradient" spoils one number of one parameter's gradient.
    """

    def __init__(self, batches, kind="loss", value=NAN, rank=0):
        self.batches, self.kind, self.value, self.rank = set(batches), kind, value, rank
        self.number = -1

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.number += 1
        if self.number not in self.batches or trainer.global_rank != self.rank:
            return
        if self.kind == "reward":
            scores = lambda pixels, prompts: pixels.mean((1, 2, 3)) * self.value  # noqa: E731
            pl_module.reward.rewards["clip"].__dict__["score_pixels"] = scores
        elif self.kind == "loss":
            step = type(pl_module).training_step
            pl_module.__dict__["training_step"] = lambda *args: step(pl_module, *args) + self.value

    def on_after_backward(self, trainer, pl_module):
        if self.kind == "gradient" and self.number in self.batches:
            parameters = [p for p in pl_module.hypernet.parameters() if p.grad is not None]
            parameters[1].grad.view(-1)[0] = self.value

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.__dict__.pop("training_step", None)
        pl_module.reward.rewards["clip"].__dict__.pop("score_pixels", None)


class History(Callback):
    """Weights, optimiser, learning rate and number of skipped updates (logged, known to the host) after each update."""

    def __init__(self):
        self.states, self.rates, self.logged, self.known = [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.states):
            weights = {n: p.detach().clone() for n, p in pl_module.hypernet.named_parameters() if p.requires_grad}
            self.states.append((weights, copy.deepcopy(trainer.optimizers[0].state_dict()["state"])))
            self.rates.append(trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0])
            self.logged.append(float(trainer.callback_metrics.get("train/skipped_updates", NAN)))
            self.known.append(next((c.skipped for c in trainer.callbacks if isinstance(c, SkipNonFinite)), None))


@pytest.fixture
def fit(make_module, make_data, make_trainer):
    """Trains for four updates, without validations; the history, the callback and the trainer."""

    def run(poison, max_skipped_updates=5, optimizer=torch.optim.AdamW, more=(), ckpt_path=None, **options):
        history, skip = History(), SkipNonFinite(max_skipped_updates)
        options = {"max_steps": 4, "limit_val_batches": 0, "gradient_clip_val": 1.0, **options}
        trainer = make_trainer(callbacks=[poison, skip, history, *more], **options)
        module = make_module(optimizer=lambda p: optimizer(p, lr=1e-2), warmup_steps=8)
        trainer.fit(module, datamodule=make_data(), ckpt_path=ckpt_path)
        return history, skip, trainer

    return run


def same(one, other) -> bool:
    try:
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("poison", "optimizer"),
    [
        (Poison([1], "reward"), ADAMW),
        (Poison([1], "loss", INF), ADAMW),  # whose gradient is finite
        pytest.param(Poison([1], "gradient", NAN), ADAMW, marks=pytest.mark.slow),
        pytest.param(Poison([1], "gradient", -INF), ADAMW, marks=pytest.mark.slow),
        pytest.param(Poison([1], "reward"), FUSED_ADAMW, marks=pytest.mark.slow),
        (Poison([1], "loss", INF), FUSED_ADAMW),
        pytest.param(Poison([1], "gradient", -INF), partial(FUSED_ADAMW, amsgrad=True), marks=pytest.mark.slow),
        (Poison([1], "gradient", NAN), FUSED_SGD),
    ],
)
def test_a_bad_update_changes_neither_weights_nor_optimiser_but_the_schedule_goes_on(fit, poison, optimizer, caplog):
    history, skip, trainer = fit(poison, optimizer=optimizer)
    assert same(history.states[1], history.states[0])
    assert all(not same(history.states[k + 1][0], history.states[k][0]) for k in (1, 2))
    weights, state_of = history.states[3]
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert {float(state.get("step", 3)) for state in state_of.values()} == {3.0}
    assert history.rates == pytest.approx([1e-2 * k / 8 for k in (2, 3, 4, 5)])
    assert trainer.global_step == 4
    assert skip.skipped == 1 and history.logged == [0, 1, 1, 1]
    assert caplog.text.count("is skipped") == 1 and "Update 2 is skipped (1 so far)" in caplog.text


@pytest.mark.parametrize(
    "optimizer", [ADAMW, *(pytest.param(each, marks=pytest.mark.slow) for each in (FUSED_ADAMW, FUSED_SGD))]
)
def test_without_a_bad_update_training_is_what_it_was(fit, optimizer, make_module, make_data, make_trainer):
    with_it, skip, _ = fit(Poison([]), optimizer=optimizer)
    history = History()
    trainer = make_trainer(callbacks=[history], max_steps=4, limit_val_batches=0, gradient_clip_val=1.0)
    trainer.fit(make_module(optimizer=lambda p: optimizer(p, lr=1e-2), warmup_steps=8), datamodule=make_data())
    assert same(with_it.states, history.states)
    assert skip.skipped == 0 and with_it.logged == [0, 0, 0, 0]


@pytest.mark.parametrize("optimizer", [pytest.param(FUSED_ADAMW, marks=pytest.mark.slow), FUSED_SGD])
def test_a_bad_first_update_leaves_no_state_behind(fit, optimizer, make_module):
    history, skip, _ = fit(Poison([0, 1], "gradient", INF), optimizer=optimizer)
    begin = {name: p.detach() for name, p in make_module().hypernet.named_parameters() if p.requires_grad}
    # The states are those of an optimiser that has seen the last two updates alone.
    assert history.states[:2] == [(history.states[0][0], {}), (history.states[1][0], {})]
    assert all(same(weights, begin) for weights, _ in history.states[:2]) and not same(history.states[2][0], begin)
    if optimizer is FUSED_SGD:
        rate, (weights, state) = history.rates[1], history.states[2]
        moved = [(begin[name] - weights[name]) / rate for name in begin]
        torch.testing.assert_close([s["momentum_buffer"] for s in state.values()], moved, atol=1e-4, rtol=1e-3)
    else:
        assert {float(state["step"]) for state in history.states[3][1].values()} == {2.0}
    assert history.known == [1, 2, 2, 2] and skip.skipped == 2


def test_one_bad_batch_skips_the_update_that_it_is_part_of(fit):
    momentum = lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)  # noqa: E731
    # Batches 2 and 3 are the second update; the third batch's loss is infinite, its gradient is not.
    poison = Poison([2], "loss", INF)
    history, skip, _ = fit(poison, optimizer=momentum, accumulate_grad_batches=2, max_epochs=4, limit_train_batches=2)
    assert len(history.states) == 4 and skip.skipped == 1
    assert [same(history.states[k + 1], history.states[k]) for k in range(3)] == [True, False, False]


def test_it_stops_after_so_many_in_a_row_with_a_diagnosis(fit, tmp_path):
    poison = Poison([0, 2, 3], "reward")
    with pytest.raises(TrainingStopped) as caught:
        fit(poison, max_skipped_updates=2, more=[LastCheckpoint()], max_steps=9)
    message = str(caught.value)
    assert "The last 2 updates were skipped, up to update 4: reward_clip is nan; the gradient is not finite" in message
    assert "The learning rate is 0.005." in message
    for part in ("--model.reward.init_args.weights.clip 0", "--model.optimizer.init_args.lr", "detect_anomaly"):
        assert part in message
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert saved["callbacks"]["SkipNonFinite"] == {"skipped": 3, "in_a_row": 0}

    # What is continued has its attempts again, and counts on.
    with pytest.raises(TrainingStopped, match="up to update 7"):
        fit(Poison([1, 2]), max_skipped_updates=2, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", max_steps=9)


def test_what_a_fused_optimiser_skips_is_known_an_update_later_but_in_checkpoints_at_once(fit, tmp_path, caplog):
    last = LastCheckpoint(every_n_steps=3)
    history, _, _ = fit(Poison([1, 2, 4]), optimizer=FUSED_ADAMW, more=[last], max_steps=5)
    assert history.logged == [0, 1, 2, 2, 3]
    assert history.known == [0, 0, 1, 2, 3]  # of the last update at once
    assert [f"Update {number} is skipped" in caplog.text for number in (1, 2, 3, 4, 5)] == [0, 1, 1, 0, 1]
    saved = torch.load(tmp_path / "checkpoints" / "previous.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert saved["callbacks"]["SkipNonFinite"] == {"skipped": 2, "in_a_row": 2}


def test_a_run_with_a_fused_optimiser_stops_an_update_later(fit, tmp_path):
    with pytest.raises(TrainingStopped, match="up to update 3: reward_clip is nan; the gradient is not finite"):
        fit(Poison([1, 2], "reward"), 2, FUSED_ADAMW, [LastCheckpoint()], max_steps=9)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert saved["callbacks"]["SkipNonFinite"] == {"skipped": 2, "in_a_row": 0}


@pytest.mark.parametrize(
    ("bad", "options"),
    [
        (3, {"max_steps": 4}),  # the last update
        (1, {"limit_val_batches": 1, "val_check_interval": 2}),  # the one before a validation
    ],
)
def test_a_run_with_a_fused_optimiser_stops_before_a_validation_and_at_the_end(fit, bad, options):
    with pytest.raises(TrainingStopped, match=f"up to update {bad + 1}:"):
        fit(Poison([bad]), 1, FUSED_ADAMW, [NoValidation()], **options)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [FUSED_ADAMW, FUSED_SGD, ADAMW])
def test_under_a_scaler_infinite_gradients_do_not_count_towards_the_limit(fit, optimizer, make_module):
    # Two scales are too large, the third one fits; then a gradient is infinite by itself.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**80, backoff_factor=2.0**-36, growth_interval=100)
    options = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)], "gradient_clip_val": None}
    history, skip, _ = fit(Poison([4], "gradient", INF), 1, optimizer, max_steps=6, **options)
    assert history.logged == [1, 2, 2, 2, 3, 3] and skip.skipped == 3
    assert [same(history.states[k + 1], history.states[k]) for k in range(5)] == [True, False, False, True, False]
    assert all(torch.isfinite(weight).all() for weight in history.states[-1][0].values())
    assert scaler.get_scale() == 2.0**-28
    with pytest.raises(TrainingStopped, match="The last 1 updates were skipped"):
        fit(Poison([1]), 1, optimizer, **options)


class NoValidation(Callback):
    def on_validation_batch_start(self, *args):
        raise AssertionError("a validation")


def test_good_updates_between_do_not_stop_it(fit):
    _, skip, _ = fit(Poison([0, 2]), max_skipped_updates=2)
    assert skip.skipped == 2


def test_a_limit_of_none_is_refused():
    with pytest.raises(ValueError, match="max_skipped_updates must be at least 1, not 0"):
        SkipNonFinite(0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1.0, -2.0], [3.0]], [2, 3, 1]),
        ([[1.0, NAN], [3.0]], [NAN, 3, 1]),
        ([[3.0], [0.0, -INF]], [3, INF, 1]),
        ([[3e38] * 4], [3e38, 1]),  # whose Euclidean norm overflows
        ([], []),
    ],
)
def test_largest_magnitudes(values, expected):
    tensors = [torch.tensor(numbers) for numbers in values] + [torch.ones(2, dtype=torch.bfloat16)] * bool(values)
    assert [float(size) for size in magnitudes(tensors)] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("terms", "bad_gradients", "bad_weights", "cause", "advice"),
    [
        (
            [{"loss": 1.0}, {"loss": NAN, "reward": NAN, "reward_a": 1.0, "reward_b": NAN}],
            [],
            [],
            "reward_b is nan.",
            "weights.b 0",
        ),
        ([{"loss": INF, "regulariser": INF}], [], [], "regulariser is inf.", "--model.reward_weight"),
        (
            [{"loss": 1.0}],
            ["second", "third"],
            [],
            "the loss is finite, but its gradient is not finite for 2 of 3 parameters, first second.",
            "gradient_clip_val",
        ),
        ([{}], [], ["w"], "the weights themselves are not finite (w).", "--ckpt_path best"),
        ([{"loss": NAN}], [], [], "loss is nan.", "lr"),
    ],
)
def test_the_diagnosis_names_the_first_cause(terms, bad_gradients, bad_weights, cause, advice):
    found = diagnose(terms, bad_gradients, bad_weights, 3)
    assert found[0] == cause
    assert advice in found[1]


@pytest.mark.slow
@pytest.mark.forks
# Infinite: the gradient is finite, and the other process knows nothing.
@pytest.mark.parametrize(("value", "optimizer"), [(INF, ADAMW), (NAN, ADAMW), (INF, FUSED_ADAMW)])
def test_two_processes_skip_the_same_update(fit, tmp_path, value, optimizer):
    fit(
        Poison([1], "loss", value, rank=1),
        optimizer=optimizer,
        more=[LastCheckpoint(), PerProcess(tmp_path)],
        devices=2,
        strategy="ddp_fork",
        max_steps=3,
        limit_train_batches=1,
    )
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first["weights"], second["weights"])
    assert [found["skipped"] for found in (first, second)] == [1, 1]
    assert [same(first["weights"][k + 1], first["weights"][k]) for k in range(2)] == [True, False]


class PerProcess(Callback):
    """Writes to a file of each process what its `History` and `SkipNonFinite` say in the end."""

    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        history, skip = (next(c for c in trainer.callbacks if isinstance(c, kind)) for kind in (History, SkipNonFinite))
        found = {"weights": [weights for weights, _ in history.states], "skipped": skip.skipped}
        torch.save(found, self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.parametrize("kind", [ModelCheckpoint, EarlyStopping])
def test_a_monitored_score_that_is_not_finite_is_said(kind):
    callbacks = [ModelCheckpoint(), kind(monitor="val/held_out_reward"), SkipNonFinite()]
    trainer = SimpleNamespace(callbacks=callbacks, global_step=4)
    for value in (torch.tensor(NAN), torch.tensor(INF)):
        trainer.callback_metrics = {"val/held_out_reward": value, "val/reward": torch.tensor(0.0)}
        with pytest.warns(UserWarning, match=f"val/held_out_reward, which {kind.__name__} .* after update 4"):
            callbacks[-1].on_validation_end(trainer, None)
    for metrics in ({"val/held_out_reward": torch.tensor(0.5)}, {}):
        trainer.callback_metrics = metrics
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            callbacks[-1].on_validation_end(trainer, None)
