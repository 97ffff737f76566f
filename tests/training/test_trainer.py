import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from safetensors.torch import save_file

from hn.hypernets import LoraFinetune
from hn.rewards import RednessReward, RewardEnsemble
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.last_checkpoint import LastCheckpoint


@pytest.fixture
def run(make_module, make_data, make_trainer):
    """Calls a command of a trainer whose run directory is given; the best checkpoint is that of the held-out reward."""

    def call(command, directory, hypernet=None, ckpt_path=None, **options):
        best = ModelCheckpoint(directory / "checkpoints", "best", monitor="val/held_out_reward", mode="max")
        callbacks = [Evaluation(), best, LastCheckpoint()]
        trainer = make_trainer(default_root_dir=str(directory), callbacks=callbacks, max_steps=1, val_check_interval=1)
        getattr(trainer, command)(
            make_module(hypernet, images_per_prompt=1), datamodule=make_data(), ckpt_path=ckpt_path
        )

    return call


@pytest.mark.parametrize("kind", ["relative", "symlink", "renamed", "copied", "another name"])
def test_the_best_checkpoint_and_its_score_stay_whatever_the_folder_is_called(
    make_module, make_data, make_trainer, tmp_path, monkeypatch, kind
):
    """The score goes down; a second callback keeps all checkpoints, and training stops if it is not the best."""
    monkeypatch.chdir(tmp_path)
    scores = {1: 0.9, 2: 0.5, 3: 0.6}

    class Score(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            pl_module.log("score", scores[trainer.global_step])

    def fit(directory, steps, ckpt_path=None):
        options = {"monitor": "score", "mode": "max", "every_n_train_steps": 1, "save_on_train_epoch_end": False}
        folder = Path(directory) / "checkpoints"
        best = ModelCheckpoint(filename="best", **options)
        all_of_them = ModelCheckpoint(filename="{step}", save_top_k=3, **{**options, "every_n_train_steps": 2})
        stopping = EarlyStopping("score", mode="max", patience=9)
        stopping.best_score = torch.tensor(0.9 if ckpt_path is None else 0.0)
        best.dirpath = all_of_them.dirpath = str(folder)  # as it is spelled, which is what loggers' folders are
        last = LastCheckpoint(every_n_steps=1)
        trainer = make_trainer(
            default_root_dir=str(directory), callbacks=[Score(), best, all_of_them, stopping, last],
            max_steps=steps, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(make_module(images_per_prompt=1), datamodule=make_data(), ckpt_path=ckpt_path)
        return best, all_of_them, stopping

    fit("a", 2)
    directory, last = {
        "relative": (tmp_path / "a", None),
        "symlink": ("link", None),
        "renamed": ("b", None),
        "copied": ("b", None),
        "another name": ("b", "a/checkpoints/last.ckpt"),
    }[kind]
    if kind == "symlink":
        os.symlink("a", "link")
    elif kind == "renamed":
        shutil.move("a", "b")
    elif kind == "copied":
        shutil.copytree("a", "b")
    best, all_of_them, stopping = fit(directory, 3, last or f"{directory}/checkpoints/last.ckpt")
    assert best.best_model_score == pytest.approx(0.9) and Path(best.best_model_path).parent.parent == Path(directory)
    assert torch.load(Path(directory, "checkpoints", "best.ckpt"), weights_only=True)["global_step"] == 1
    assert [*map(float, all_of_them.best_k_models.values())] == pytest.approx([0.5])
    assert stopping.best_score == pytest.approx(0.9)


def test_a_moved_run_finds_its_best_checkpoint(run, tmp_path, caplog):
    run("fit", tmp_path / "here")
    there = tmp_path / "there"
    shutil.move(tmp_path / "here", there)
    last = there / "checkpoints" / "last.ckpt"
    (there / "results_suite.json").touch()  # of a suite that the experiment had
    run("train", there, ckpt_path=last)
    assert not (there / "results_suite.json").exists()
    training = json.loads((there / "results.json").read_text())["training"]
    assert (training["best_step"], training["best_checkpoint"]) == (1, "best.ckpt")
    card = (there / "hypernet" / "README.md").read_text()
    assert "## Training" in card
    assert "best_step: 1" in card

    (there / "checkpoints" / "best.ckpt").unlink()
    run("train", there, ckpt_path=last)
    training = json.loads((there / "results.json").read_text())["training"]
    assert (training["best_step"], training["best_checkpoint"]) == (None, None)
    assert "best.ckpt, is gone; the last weights are tested" in caplog.text


def test_a_fine_tune_is_trained_and_kept(run, tmp_path):
    run("train", tmp_path, LoraFinetune(rank=2))
    assert list((tmp_path / "hypernet").glob("adapter_model*"))


@pytest.mark.parametrize("content", ["safetensors", "truncated", "empty", "weights"])
def test_a_file_that_is_no_checkpoint_is_refused(make_module, make_data, make_trainer, tmp_path, content):
    path = tmp_path / "given.ckpt"
    if content == "safetensors":
        save_file({"weight": torch.zeros(100)}, path)
    else:
        torch.save({"weight": torch.zeros(100)}, path)
        if content != "weights":
            path.write_bytes(path.read_bytes()[: 300 if content == "truncated" else 0])
    trainer = make_trainer()
    with pytest.raises(ValueError, match=r"given\.ckpt cannot be read as a training checkpoint.*`previous` or `best`"):
        trainer.fit(make_module(), datamodule=make_data(), ckpt_path=path)
    assert not trainer.is_working


def test_a_score_that_will_not_be_measured_cannot_be_monitored(make_module, make_data, make_trainer, tmp_path):
    for monitored in ("val/held_out_reward", "val/diversity"):
        best = ModelCheckpoint(tmp_path / "best", monitor=monitored, mode="max")
        trainer = make_trainer(callbacks=[best])
        with pytest.raises(ValueError, match=rf"ModelCheckpoint monitors {monitored}.*callbacks\.evaluation"):
            trainer.fit(make_module(), datamodule=make_data())
    trainer = make_trainer(callbacks=[EarlyStopping("val/held_out_reward"), Evaluation()])
    module = make_module()
    module.reward = RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0})
    with pytest.raises(ValueError, match="EarlyStopping monitors val/held_out_reward.*a held-out reward"):
        trainer.fit(module, datamodule=make_data())
    assert not trainer.is_working


def test_generating_with_too_many_steps_is_refused(make_module, make_trainer, tmp_path):
    trainer = make_trainer()
    with pytest.raises(ValueError, match="steps must be at most 1000, the timesteps of DDIMScheduler, not 2000"):
        trainer.generate(make_module(), "a red ball", hypernet=str(tmp_path), steps=2000)
    assert not trainer.is_working


def test_a_single_validation_image_has_no_cmmd(make_module, make_data, make_trainer):
    trainer = make_trainer(callbacks=[Evaluation()], limit_val_batches=1)
    trainer.validate(make_module(images_per_prompt=1), datamodule=make_data(eval_batch_size=1), verbose=False)
    assert "val/reward" in trainer.callback_metrics
    assert "val/cmmd" not in trainer.callback_metrics


def test_max_time_counts_beside_a_timer_that_only_measures(make_trainer):
    trainer = make_trainer(max_time="00:00:00:04", callbacks=[Timer(interval="step")])
    (timer,) = (callback for callback in trainer.callbacks if isinstance(callback, Timer))
    assert timer.time_remaining() == 4.0
    (timer,) = (each for each in make_trainer(callbacks=[Timer()]).callbacks if isinstance(each, Timer))
    assert timer.time_remaining() is None
