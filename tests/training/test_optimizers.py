"""Optimisers of other libraries, by class path; and what a run that is continued takes from its checkpoint."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from hn.cli import main
from hn.training.callbacks.last_checkpoint import LastCheckpoint
from hn.training.optimizers import RECORD, continue_optimizer
from hn.utils.class_path import class_path

OPTIONS = ["--callbacks.evaluation", "null", "--callbacks.best", "null", "--callbacks.images", "null"]
OPTIONS += ["--trainer.limit_val_batches", "0", "--callbacks.last.init_args.every_n_steps", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        "tests.untyped_optimizer.Momentum",
        pytest.param("bitsandbytes.optim.AdamW8bit", marks=pytest.mark.extras("bitsandbytes")),
    ],
)
def test_a_run_is_trained_and_continued_exactly(experiment, optimizer):
    def fit(name, updates, *more):
        own = ["--model.optimizer", optimizer, "--run.name", name, "--trainer.max_steps", str(updates)]
        main(["fit", "--config", str(experiment), *OPTIONS, *own, *more])
        file = experiment.parent / "runs" / "tiny" / name / "checkpoints" / "last.ckpt"
        return torch.load(file, weights_only=True)["state_dict"]

    whole = fit("whole", 4)
    before = fit("parts", 2)
    after = fit("parts", 4, "--ckpt_path", "last")
    assert all(torch.equal(after[name], whole[name]) for name in whole)
    assert not all(torch.equal(before[name], whole[name]) for name in whole)


def halving(step):
    return 0.5**step


SCHEDULE = {"decay_steps": 9}


def trained(kind, updates=2, **options):
    """The checkpoint of an optimiser, as Lightning has it, and optimiser, parameter and schedule to go on with."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = kind([parameter], **options)
    scheduler = LambdaLR(optimizer, halving)
    for _ in range(updates):
        parameter.grad = torch.arange(3.0)
        optimizer.step()
        scheduler.step()
    record = {"class": class_path(kind), **SCHEDULE}
    states = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()], RECORD: record}
    return copy.deepcopy(states), parameter


def probe(kind, **options):
    return kind([nn.Parameter(torch.zeros(1))], **options)


@pytest.mark.parametrize(
    ("kind", "before", "now", "said"),
    [
        (AdamW, {"lr": 0.1}, {"lr": 0.01}, ["lr 0.1 -> 0.01"]),
        (AdamW, {"weight_decay": 0.0}, {"weight_decay": 0.5}, ["weight_decay 0.0 -> 0.5"]),
        (AdamW, {"betas": (0.9, 0.999)}, {"betas": [0.5, 0.9]}, ["betas [0.9, 0.999] -> [0.5, 0.9]"]),
        (AdamW, {"fused": True}, {"fused": False}, ["fused True -> False"]),
        (SGD, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.2, "momentum": 0.5}, ["lr 0.1 -> 0.2", "momentum 0.9 -> 0.5"]),
        (SGD, {"lr": 0.1}, {"lr": 0.1, "momentum": 0.5}, ["momentum 0 -> 0.5"]),
    ],
)
def test_options_that_change_are_used_and_said(kind, before, now, said):
    checkpoint, parameter = trained(kind, **before)
    assert continue_optimizer(checkpoint, probe(kind, **now), SCHEDULE, halving) == said
    optimizer = kind([parameter], **now)
    scheduler = LambdaLR(optimizer, halving)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    scheduler.load_state_dict(checkpoint["lr_schedulers"][0])
    (group,) = optimizer.param_groups
    options = {name: value for name, value in now.items() if name != "lr"}
    assert {name: list(group[name]) if name == "betas" else group[name] for name in options} == options
    rate = now.get("lr", 1e-3 if kind is AdamW and "lr" not in before else before.get("lr"))
    assert group["lr"] == rate / 4
    parameter.grad = torch.arange(3.0)
    optimizer.step()
    scheduler.step()
    assert group["lr"] == rate / 8


def test_what_does_not_change_stays_to_the_last_bit():
    checkpoint, _ = trained(AdamW, lr=0.1)
    before = copy.deepcopy(checkpoint)
    assert continue_optimizer(checkpoint, probe(AdamW, lr=0.1), SCHEDULE, halving) == []
    assert str(checkpoint) == str(before)


def test_another_schedule_holds_from_the_next_update_on():
    checkpoint, _ = trained(AdamW, lr=0.1)
    said = continue_optimizer(checkpoint, probe(AdamW, lr=0.1), {"decay_steps": 20}, lambda step: 1.0)
    assert said == ["decay_steps 9 -> 20"] and checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1


OTHERS = [(AdamW, SGD), (SGD, AdamW), (AdamW, RMSprop)]


@pytest.mark.parametrize(
    ("before", "now", "has_record"),
    [(*pair, has_record) for pair in OTHERS for has_record in (True, False)]
    + [(AdamW, Adam, True)],  # which the state alone does not tell apart
)
def test_another_class_is_refused(before, now, has_record):
    checkpoint, _ = trained(before, lr=0.1)
    if not has_record:  # of an earlier version
        del checkpoint[RECORD]
    with pytest.raises(ValueError, match=f"the state of another optimiser.* than .*{now.__name__}: continue with"):
        continue_optimizer(checkpoint, probe(now, lr=0.1), SCHEDULE, halving)


def test_an_option_that_needs_more_state_is_refused():
    checkpoint, _ = trained(AdamW)
    with pytest.raises(ValueError, match="has no max_exp_avg_sq, which amsgrad of this run needs"):
        continue_optimizer(checkpoint, probe(AdamW, amsgrad=True), SCHEDULE, halving)


def test_a_run_goes_on_with_another_rate(make_module, make_data, make_trainer, tmp_path):
    def fit(steps, rate, kind=AdamW, **options):
        trainer = make_trainer(callbacks=[LastCheckpoint(1)], max_steps=steps, limit_val_batches=0)
        module = make_module(images_per_prompt=1, optimizer=partial(kind, lr=rate), decay_steps=4)
        trainer.fit(module, datamodule=make_data(), **options)
        return torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"][0]

    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(1, 0.1)
    group = fit(2, 0.01, ckpt_path=last)
    assert group["initial_lr"] == 0.01 and group["lr"] == pytest.approx(0.005)
    with pytest.raises(ValueError, match="of another optimiser"):
        fit(3, 0.01, SGD, ckpt_path=last)
