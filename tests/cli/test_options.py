import math
import random

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hn.cli.options import check_options, check_schedule, check_seed


def check(command="train", callbacks=None, trainer=None, **sections):
    trainer = {"accelerator": "cpu", "max_steps": 3, "val_check_interval": 2, **(trainer or {})}
    check_options(command, {"callbacks": callbacks or {}, "trainer": trainer, "model": {}, **sections})


def test_options_that_mean_something_are_fine():
    check(
        trainer={
            "max_time": "00:00:00:04",
            "gradient_clip_val": 0,
            "limit_val_batches": 0,
            "check_val_every_n_epoch": 1,
        }
    )
    check(trainer={"max_steps": -1, "val_check_interval": 0.5, "check_val_every_n_epoch": 1})
    check("test", trainer={"limit_train_batches": 0, "max_steps": 0})
    check(model={"class_path": "mine.Net", "init_args": {"bound": math.inf}})


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"max_steps": 0}, "trainer.max_steps must be at least 1, or -1"),
        ({"max_steps": -5}, "trainer.max_steps .* not -5"),
        ({"gradient_clip_val": math.nan}, "trainer.gradient_clip_val must be a finite number, not nan"),
        ({"gradient_clip_val": -1}, "trainer.gradient_clip_val must be at least 0"),
        ({"val_check_interval": 0}, "trainer.val_check_interval must be at least 1 batch, not 0"),
        ({"val_check_interval": 0.5}, "trainer.val_check_interval must be a whole number of batches"),
        ({"val_check_interval": math.inf}, "trainer.val_check_interval must be a finite number"),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches must be at least 1"),
        ({"overfit_batches": 1}, "trainer.overfit_batches .* --data.init_args.limit_train"),
        ({"limit_test_batches": 0}, "trainer.limit_test_batches 0 leaves no batch for hn train"),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches 0"),
        ({"limit_val_batches": -1}, "limit_val_batches"),
        ({"devices": -3}, "devices"),
        ({"devices": "foo"}, "devices"),
        ({"devices": 0}, "devices"),
        ({"num_nodes": 0}, "trainer.num_nodes must be at least 1"),
        ({"accelerator": "foo"}, "accelerator"),
        ({"strategy": "foo"}, "strategy"),
        ({"max_time": "soon"}, "not a valid duration"),
    ],
)
def test_trainers_that_cannot_work_are_refused_by_name(trainer, message):
    with pytest.raises((ValueError, MisconfigurationException), match=message):
        check(trainer=trainer)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ({"mine": {"class_path": "lightning.Callback", "init_args": {}}}, "callbacks.mine does nothing"),
        (
            {
                name: {"class_path": "hn.training.callbacks.suite.PromptSuite", "init_args": {"name": "same"}}
                for name in "ab"
            },
            "Two prompt suites are called same",
        ),
    ],
)
def test_callbacks_that_do_nothing_or_collide_are_refused(callbacks, message):
    with pytest.raises(ValueError, match=message):
        check(callbacks=callbacks)
    with pytest.raises(ValueError, match="callbacks must be a mapping of names, not null"):
        check_options("train", {"callbacks": None, "trainer": {}})


def test_numbers_that_are_not_finite_are_found_wherever_they_are():
    rng = random.Random(0)
    for value in (math.nan, math.inf, -math.inf):
        for _ in range(5):
            section, path = value, "model"
            keys = [rng.choice(["a", "b", 0]) for _ in range(rng.randint(1, 5))]
            for key in reversed(keys):
                section = [section] if key == 0 else {key: section}
            path += "".join("[0]" if key == 0 else f".{key}" for key in keys)
            with pytest.raises(ValueError) as caught:
                check(model=section)
            assert str(caught.value) == f"{path} must be a finite number, not {value}."


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
def test_seeds_that_not_all_libraries_take_are_refused(seed):
    with pytest.raises(ValueError, match=rf"seed_everything must be from 0 to 4294967295 .* not {seed}"):
        check_seed(seed)
    check_seed(2**32 - 1)


@pytest.mark.parametrize(("max_steps", "warmup", "decay"), [(2, 20, 2), (300, 20, None), (300, 20, 20), (None, 0, 1)])
def test_a_training_may_end_while_the_learning_rate_rises(max_steps, warmup, decay):
    check_schedule(max_steps, warmup, decay)


@pytest.mark.parametrize("max_steps", [None, -1, 3])
def test_a_learning_rate_that_is_zero_before_it_has_risen_is_refused(max_steps):
    with pytest.raises(ValueError, match=r"zero at update 2 \(decay_steps\) and rise until update 20 \(warmup_steps\)"):
        check_schedule(max_steps, 20, 2)
