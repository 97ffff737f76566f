"""Checkpoints are there in whole or not at all, and what is no checkpoint is refused."""

import pickle
import tempfile

import pytest
import torch

from hn.training.checkpoints import TrainingCheckpointIO, peek_checkpoint, usable_checkpoints


class Unwritable:
    def __reduce__(self):
        raise OSError("the disk is full")


class Running:
    """Makes a file when it is read."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.fixture
def io():
    return TrainingCheckpointIO()


@pytest.fixture
def checkpoint():
    """The least that makes a training's checkpoint, of an update."""

    def make(step, **more):
        return {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "global_step": step, **more}

    return make


def test_what_is_written_is_read(io, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # nothing goes through another file system
    path = tmp_path / "checkpoints" / "last.ckpt"
    io.save_checkpoint(checkpoint(3, weight=torch.arange(3.0)), path)
    found = io.load_checkpoint(path)
    assert found["global_step"] == 3 and torch.equal(found["weight"], torch.arange(3.0))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_write_that_fails_leaves_the_one_before(io, checkpoint, tmp_path):
    path = tmp_path / "last.ckpt"
    io.save_checkpoint(checkpoint(3), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="the disk is full"):
        io.save_checkpoint(checkpoint(4, weight=torch.zeros(10_000), bad=Unwritable()), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "it is empty"),
        (lambda content: content[: len(content) // 2], "it was cut short or is damaged"),
        (lambda content: content[:-10], "it was cut short or is damaged"),
        (lambda content: b"<html>not found</html>", "it is a file of another kind"),
        (lambda content: content[:200] + bytes(len(content) - 200), "it was cut short or is damaged"),
    ],
)
def test_a_damaged_one_is_refused_and_the_whole_ones_are_named(io, checkpoint, tmp_path, damage, reason):
    for name, step in (("last", 30), ("previous", 20), ("best", 10)):
        io.save_checkpoint(checkpoint(step, weight=torch.ones(1000)), tmp_path / f"{name}.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "best.ckpt").read_bytes()[:500])
    last = tmp_path / "last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    with pytest.raises(ValueError) as caught:
        io.load_checkpoint(last)
    message = str(caught.value)
    assert f"last.ckpt cannot be read as a training checkpoint: {reason}" in message
    assert f"{tmp_path}/previous.ckpt (update 20), {tmp_path}/best.ckpt (update 10);" in message
    assert "cut.ckpt" not in message


def test_a_look_into_one_is_refused_as_reading_it_is(io, checkpoint, tmp_path):
    io.save_checkpoint(checkpoint(3, weight=torch.arange(3.0)), tmp_path / "last.ckpt")
    assert torch.equal(peek_checkpoint(tmp_path / "last.ckpt")["weight"], torch.arange(3.0))
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:-10])
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.ckpt")
    for name, reason in (("cut", "it was cut short"), ("weights", "no state of a training")):
        with pytest.raises(ValueError, match=rf"{name}\.ckpt cannot be read as a training checkpoint: .*{reason}"):
            peek_checkpoint(tmp_path / f"{name}.ckpt")


def test_weights_alone_are_refused(io, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.ckpt")
    with pytest.raises(ValueError, match="it holds weights or other values, but no state of a training"):
        io.load_checkpoint(tmp_path / "weights.ckpt")
    assert usable_checkpoints(tmp_path, without=tmp_path / "last.ckpt") == {}


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_nothing_in_a_file_is_run(io, checkpoint, tmp_path, write):
    trace = tmp_path / "trace"
    write(checkpoint(1, bad=Running(trace)), tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="would run code"):
        io.load_checkpoint(tmp_path / "last.ckpt")
    assert usable_checkpoints(tmp_path, without=tmp_path / "other.ckpt") == {}
    assert not trace.exists()
