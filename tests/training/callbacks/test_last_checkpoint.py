import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from hn.report.curves import read_scalars
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.last_checkpoint import LastCheckpoint, settle_validation, take_back_batches
from hn.training.checkpoints import keep_also
from hn.training.trainer import ExperimentTrainer

STEPS = 6


class Failure(Callback):
    """Fails in the hook named: at its n-th call."""

    def __init__(self, hook: str, call: int):
        self.left = call

        def fail(*args):
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("failed on purpose")

        setattr(self, hook, fail)


@pytest.fixture
def fit(make_module, make_data, make_trainer, tmp_path):
    """Trains for `STEPS` updates, three an epoch, with a validation after every second batch."""

    def run(*callbacks, ckpt_path=None, every_n_steps=100, **options):
        # The KL grows all the time: every validation is a new best.
        best = ModelCheckpoint(tmp_path / "best", "best", monitor="val/kl_nats", mode="max")
        watching = [*callbacks, Evaluation(), best, LastCheckpoint(every_n_steps)]
        trainer = make_trainer(**{"max_steps": STEPS, "callbacks": watching, **options})
        trainer.fit(make_module(images_per_prompt=1), datamodule=make_data(), ckpt_path=ckpt_path)

    return run


@pytest.fixture
def last(tmp_path):
    return tmp_path / "checkpoints" / "last.ckpt"


def outcome(path) -> dict:
    """What must not depend on interruptions: weights, optimiser, schedule, last validation."""
    checkpoint = torch.load(path, weights_only=True)
    best = next(state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    kept = {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")}
    return kept | {"kl_nats": best["best_model_score"]}


@pytest.fixture(scope="module")
def kept():
    """Outcomes of uninterrupted runs by their options, so that each is made once."""
    return {}


@pytest.fixture
def check(fit, last, kept, monkeypatch):
    """Checks that a run that fails, and then continues, has the outcome of one that does not fail.

    A run that is killed writes nothing when it ends.
    """

    def run(hook, call, is_killed=False, **options):
        key = str(options)
        if key not in kept:
            fit(**options)
            kept[key] = outcome(last)
            assert kept[key]["global_step"] == options.get("max_steps", STEPS)
            last.unlink()
        with monkeypatch.context() as patch:
            if is_killed:
                patch.setattr(LastCheckpoint, "on_exception", lambda *args: None)
            with pytest.raises(RuntimeError, match="on purpose"):
                fit(Failure(hook, call), **options)
        fit(ckpt_path=last, **options)
        torch.testing.assert_close(outcome(last), kept[key], rtol=0, atol=0)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "call"),
    [
        # The first batch of an epoch, not after a validation.
        pytest.param("on_train_batch_start", 4, marks=pytest.mark.slow),
        ("on_before_optimizer_step", 5),  # after a validation
        # The last batch of an epoch, its update is done.
        pytest.param("on_train_batch_end", 3, marks=pytest.mark.slow),
        # In the middle of the first validation.
        pytest.param("on_validation_batch_end", 2, marks=pytest.mark.slow),
    ],
)
def test_a_failed_run_continues_as_if_nothing_had_been(check, hook, call):
    check(hook, call)


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_validation_after_the_last_update_is_made_up(check, is_killed):
    check("on_validation_batch_end", 2, is_killed, max_steps=2)


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_batch_start"])
def test_curves_are_those_of_a_run_that_was_not_stopped(make_module, make_data, make_trainer, tmp_path, hook):
    """Stopped right after a validation, by a callback that comes after the checkpoint's; and a finished run again."""

    def fit(name, *callbacks, **options):
        directory = tmp_path / name
        last = directory / "checkpoints" / "last.ckpt"
        logger = TensorBoardLogger(str(directory), name="", version="")
        watching = [LearningRateMonitor(), *callbacks, Evaluation(), LastCheckpoint()]
        common = {"default_root_dir": str(directory), "logger": logger, "max_steps": 4, "log_every_n_steps": 1}
        trainer = make_trainer(callbacks=watching, **common)
        data = make_data()
        module = make_module(images_per_prompt=1)
        trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None)
        trainer.test(module, datamodule=data, verbose=False)

    def steps(name):
        names = ("val/kl_nats", "train/loss", "test/kl_nats", "lr-AdamW")
        return {scalar: read_scalars(tmp_path / name)[scalar][0] for scalar in names}

    fit("whole")
    with pytest.raises(RuntimeError, match="on purpose"):
        fit("parts", Failure(hook, 1 if hook == "on_validation_end" else 3))
    fit("parts")
    assert steps("parts") == steps("whole")
    fit("parts")  # which tests again
    assert steps("parts") == steps("whole")


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 5])  # in the middle of an update, and at the first batch after a short one
def test_accumulated_batches_of_an_unfinished_update_are_done_again(check, call):
    check("on_train_batch_start", call, accumulate_grad_batches=2, max_steps=4, val_check_interval=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "call", "is_killed"),
    [
        ("on_train_batch_start", 2, True),  # the last checkpoint is of the validation amid the first update
        ("on_train_batch_start", 4, True),  # of that after an epoch, whose last update is a short one
        ("on_train_batch_start", 5, True),  # of that amid the update after it
        ("on_validation_batch_end", 6, False),  # in the middle of a validation amid an update
    ],
)
def test_a_validation_amid_an_update_leaves_none_of_its_batches_out(check, hook, call, is_killed):
    check(hook, call, is_killed, accumulate_grad_batches=2, max_steps=4, val_check_interval=1)


def test_it_is_written_at_intervals_after_validations_and_at_the_last_update(fit, monkeypatch):
    written = []

    def save(trainer, path, *args):
        if path.name == "last.ckpt":
            written.append(trainer.global_step)

    monkeypatch.setattr(ExperimentTrainer, "save_checkpoint", save)
    monkeypatch.setattr(ModelCheckpoint, "_save_checkpoint", lambda *args: None)
    fit(every_n_steps=2, max_steps=5, val_check_interval=3)
    assert written == [2, 3, 5]
    written.clear()
    fit(max_steps=-1, max_epochs=1, limit_val_batches=0)
    assert written == [3]


def test_the_one_before_stays(fit, last):
    fit(every_n_steps=1, max_steps=3, limit_val_batches=0)
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in last.parent.iterdir()}
    assert steps == {"previous.ckpt": 2, "last.ckpt": 3}


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_keeps_the_content(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("os.link", lambda *paths: (_ for _ in ()).throw(OSError("no links here")))
    path, name = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for content in ("one", "two"):
        path.write_text(content)
        keep_also(path, name)
        (tmp_path / "new").write_text("three")
        (tmp_path / "new").replace(path)
        assert (name.read_text(), path.read_text()) == (content, "three")
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


@pytest.mark.slow
def test_a_run_killed_in_a_validation_does_it_again(fit, last, monkeypatch):
    class Validations(Callback):
        def __init__(self):
            self.steps = []

        def on_validation_end(self, trainer, pl_module):
            self.steps.append(trainer.global_step)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_exception", lambda *args: None)
        with pytest.raises(RuntimeError, match="on purpose"):
            fit(Failure("on_validation_batch_end", 1), every_n_steps=2)
    # It is of the update that the validation belongs to, and was written before that.
    assert torch.load(last, weights_only=True)["global_step"] == 2
    validations = Validations()
    fit(validations, ckpt_path=last)
    assert validations.steps == [2, 4, 6]


def test_validating_alone_writes_nothing(make_module, make_data, make_trainer, last):
    trainer = make_trainer(callbacks=[Evaluation(), LastCheckpoint()])
    trainer.validate(make_module(images_per_prompt=1), datamodule=make_data(), verbose=False)
    assert not last.exists()


def test_taking_back_a_batch_under_way():
    def progress(ready, processed, completed):
        counts = {"ready": ready, "started": ready, "processed": processed, "completed": completed}
        later = {name: count + 10 for name, count in counts.items()}
        return {"current": counts, "total": later, "is_last_batch": True}

    under_way = progress(5, 4, 4)
    assert take_back_batches(under_way, accumulated=3, is_last_batch=True)
    assert under_way == progress(3, 3, 3) | {"is_last_batch": False}
    finished = progress(5, 5, 4)  # written by a callback at the end of the batch: Lightning counts it as done
    assert not take_back_batches(finished, accumulated=3, is_last_batch=True)
    assert finished == progress(5, 5, 4)
    unfinished = progress(5, 5, 4)
    assert take_back_batches(unfinished, accumulated=3, is_last_batch=False)
    assert unfinished == progress(3, 3, 3) | {"is_last_batch": False}


@pytest.mark.parametrize(("is_under_way", "expected"), [(False, (2, 2, 2, 2)), (True, (1, 1, 0, 0))])
def test_settling_a_validation(is_under_way, expected):
    names = ("ready", "started", "processed", "completed")
    state = {which: dict(zip(names, (3, 3, 2, 2), strict=True)) for which in ("current", "total")}
    settle_validation(state, is_under_way)
    assert state == {which: dict(zip(names, expected, strict=True)) for which in ("current", "total")}


def test_an_interval_of_none_is_refused():
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, not 0"):
        LastCheckpoint(every_n_steps=0)
