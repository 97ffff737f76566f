"""A run that was cut in two is the same run, from the command line."""

import os
import signal
from pathlib import Path

import pytest
import torch

from hn.cli import main

INTERRUPTION = '''
import os

from lightning.pytorch import Callback

class Interruption(Callback):
    """Sends the process signals when a hook is called after so many updates, once."""

    def __init__(self, step: int, hook: str, signals: list[int]):
        def interrupt(trainer, *args, **kwargs):
            if trainer.global_step == step:
                while signals:
                    os.kill(os.getpid(), signals.pop())

        setattr(self, hook, interrupt)
'''


@pytest.fixture
def fit(experiment, monkeypatch, tmp_path):
    """Runs `hn fit` with six updates, three an epoch, and a validation after every second one."""
    (tmp_path / "interruption.py").write_text(INTERRUPTION)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--trainer.max_steps", "6", "--model.decay_steps", "6", "--callbacks.images", "null"]
    # The KL grows all the time, so that every validation is a new best and its number is in the checkpoint.
    options += ["--callbacks.best.init_args.monitor", "val/kl_nats"]
    return lambda name, *more: main(["fit", "--config", str(experiment), "--run.name", name, *options, *more])


def last(experiment: Path, name: str) -> dict:
    """What the run's last checkpoint says of weights, optimiser, schedule and validation."""
    path = experiment.parent / "runs" / "tiny" / name / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    best = next(state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    kept = {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")}
    return kept | {"kl_nats": best["best_model_score"]}


@pytest.fixture(scope="module")
def kept():
    """Holds the uninterrupted run's last checkpoint, so that it is made once."""
    return {}


@pytest.fixture
def uninterrupted(kept, fit, experiment):
    if not kept:
        fit("whole")
        kept.update(last(experiment, "whole"))
        assert kept["global_step"] == 6
        assert any(weight.abs().max() > 0 for name, weight in kept["state_dict"].items() if "lora_B" in name)
    return kept


# At the end of an epoch; in the middle of one, at a validation.
@pytest.mark.parametrize("at", [pytest.param(3, marks=pytest.mark.slow), 4])
def test_stopped_and_continued_is_uninterrupted(fit, experiment, uninterrupted, at):
    fit("parts", "--trainer.max_steps", str(at))
    assert last(experiment, "parts")["global_step"] == at
    saved = (experiment.parent / "runs" / "tiny" / "parts" / "config.yaml").read_text()
    fit("parts", "--ckpt_path", "last")
    torch.testing.assert_close(last(experiment, "parts"), uninterrupted, rtol=0, atol=0)
    continued = (experiment.parent / "runs" / "tiny" / "parts" / "config.yaml").read_text()
    assert continued == saved.replace(f"max_steps: {at}\n", "max_steps: 6\n")


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(3, 6), (2, 3), (1, 2, 3, 4, 5)])
def test_stopped_and_continued_again_and_again_is_uninterrupted(fit, experiment, uninterrupted, stops):
    """Three updates make an epoch; its end is the hardest place to go on from."""
    for number, stop in enumerate(stops):
        fit("parts", "--trainer.max_steps", str(stop), *(["--ckpt_path", "last"] if number else []))
    if stops[-1] < 6:
        fit("parts", "--ckpt_path", "last")
    torch.testing.assert_close(last(experiment, "parts"), uninterrupted, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1, 2), (1, 2, 3)])
def test_epochs_of_one_batch_are_continued(fit, experiment, stops):
    options = ["--data.init_args.batch_size", "12", "--trainer.val_check_interval", "100"]
    fit("whole", *options, "--trainer.max_steps", "4")
    for number, stop in enumerate([*stops, 4]):
        fit("parts", *options, "--trainer.max_steps", str(stop), *(["--ckpt_path", "last"] if number else []))
    assert last(experiment, "whole")["epoch"] == 3
    torch.testing.assert_close(last(experiment, "parts"), last(experiment, "whole"), rtol=0, atol=0)


@pytest.fixture
def interrupted(fit):
    """Runs `hn fit` with signals that come in a hook after four updates, and returns the exit status."""

    def run(hook, *signals):
        stop = f"{{class_path: interruption.Interruption, init_args: {{step: 4, hook: {hook}, signals: {[*signals]}}}}}"
        handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
        try:
            with pytest.raises(SystemExit) as caught:
                fit("parts", "--callbacks.stop", stop)
            # Handlers are as they were.
            assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers
        finally:
            for signum, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
                signal.signal(signum, handler)
        return caught.value.code

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "signum", "stopped_at"),
    [
        ("on_train_batch_start", signal.SIGINT, 5),
        ("on_before_optimizer_step", signal.SIGTERM, 5),
        ("on_validation_batch_start", signal.SIGINT, 4),
        ("on_validation_batch_end", signal.SIGTERM, 4),
    ],
)
def test_a_signal_stops_after_the_batch_and_the_run_goes_on_exactly(
    fit, interrupted, experiment, uninterrupted, capfd, caplog, hook, signum, stopped_at
):
    assert interrupted(hook, int(signum)) == 128 + signum
    name = "Ctrl-C" if signum == signal.SIGINT else "SIGTERM"
    path = experiment.parent / "runs" / "tiny" / "parts" / "checkpoints" / "last.ckpt"
    line = f"{name} after update {stopped_at}: --run.name parts --ckpt_path last continues from {path}."
    assert line in caplog.messages
    assert ("press Ctrl-C again to stop at once" in capfd.readouterr().err) == (signum == signal.SIGINT)
    assert last(experiment, "parts")["global_step"] == stopped_at
    fit("parts", "--ckpt_path", "last")
    torch.testing.assert_close(last(experiment, "parts"), uninterrupted, rtol=0, atol=0)


@pytest.mark.slow
def test_the_second_ctrl_c_stops_at_once_and_writes_no_half_update(
    fit, interrupted, experiment, uninterrupted, monkeypatch, caplog
):
    step = torch.optim.AdamW.step

    def half(self, closure):
        closure()
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(1)
        raise KeyboardInterrupt

    # The first one comes before the update, the second amid it.
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args, **options: (step, half)[_second()](*args, **options))
    assert interrupted("on_train_batch_start", int(signal.SIGINT)) == 130
    monkeypatch.undo()
    assert "Stopped amid update 4" in caplog.text
    assert last(experiment, "parts")["global_step"] == 4
    fit("parts", "--ckpt_path", "last")
    torch.testing.assert_close(last(experiment, "parts"), uninterrupted, rtol=0, atol=0)


def _second() -> bool:
    """Whether a first Ctrl-C has come."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A job of SLURM's, whose `scontrol` writes down how it is called, and ends the job as SLURM would."""
    job = {"NTASKS": 1, "JOB_ID": 17, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NODELIST": "here"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    scontrol, called = tmp_path / "bin" / "scontrol", tmp_path / "called"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {called}\nkill -TERM $PPID\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    return called


@pytest.mark.slow
def test_a_job_that_slurm_puts_into_the_queue_again_goes_on_by_itself(
    fit, interrupted, experiment, uninterrupted, slurm, monkeypatch
):
    run = experiment.parent / "runs" / "tiny" / "parts"
    assert interrupted("on_before_optimizer_step", int(signal.SIGUSR1)) == 128 + signal.SIGTERM
    assert slurm.read_text() == "requeue 17\n"
    # Not amid the update, when the signal came.
    assert torch.load(run / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"] == 5
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    fit("parts")
    torch.testing.assert_close(last(experiment, "parts"), uninterrupted, rtol=0, atol=0)


@pytest.mark.slow
def test_on_the_miniature_too(tmp_path, monkeypatch):
    """The real checkpoints: four updates at once, and two and two."""
    config = Path(__file__).parents[2] / "experiments" / "miniature.yaml"
    monkeypatch.chdir(config.parents[1])
    options = ["--run.root", str(tmp_path), "--run.experiment", "miniature", "--model.decay_steps", "4"]
    options += ["--callbacks.images", "null", "--data.init_args.batch_size", "8", "--data.init_args.limit_val", "4"]
    options += ["--model.images_per_prompt", "2", "--trainer.val_check_interval", "2", "--trainer.max_steps"]

    def fit(name, max_steps, *more):
        main(["fit", "--config", str(config), "--run.name", name, *options, str(max_steps), *more])

    fit("whole", 4)
    fit("parts", 2)
    fit("parts", 4, "--ckpt_path", "last")
    states = [
        torch.load(tmp_path / "miniature" / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "parts")
    ]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        torch.testing.assert_close(states[1][key], states[0][key], rtol=0, atol=0)
    assert states[0]["global_step"] == 4
    assert any(weight.abs().max() > 0 for name, weight in states[0]["state_dict"].items() if "lora_B" in name)
