import os
import re

import pytest

from hn.training.run_directory import RunDirectory, find_checkpoint, requeued_checkpoint, timestamp


def test_a_run_is_known_by_experiment_and_name(tmp_path):
    run = RunDirectory(str(tmp_path), "miniature", "one")
    assert run.path == tmp_path / "miniature" / "one"
    unnamed = RunDirectory(str(tmp_path))
    assert unnamed.path.parent == tmp_path / "unnamed"
    assert re.fullmatch(r"\d{4}(-\d\d){2}_\d\d(-\d\d){2}", unnamed.path.name)
    assert re.fullmatch(r"\d{4}(-\d\d){2}_\d\d(-\d\d){2}", timestamp())


def test_trained_weights_are_the_named_runs_or_the_newest(tmp_path):
    run = RunDirectory(str(tmp_path), "x")
    assert run.trained() is None
    for age, name in enumerate(("b", "c", "a")):
        folder = tmp_path / "x" / name / "hypernet"
        folder.mkdir(parents=True)
        os.utime(folder, (1000 - age, 1000 - age))
    (tmp_path / "x" / "compare_1").mkdir()
    assert run.trained() == tmp_path / "x" / "b" / "hypernet"
    assert RunDirectory(str(tmp_path), "x", "a").trained() == tmp_path / "x" / "a" / "hypernet"
    assert RunDirectory(str(tmp_path), "x", "new").trained() is None  # the named one or none
    assert RunDirectory(str(tmp_path), "y").trained() is None


def test_checkpoints_are_found_by_name_or_path(tmp_path):
    folder = tmp_path / "x" / "one" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").touch()
    (folder / "best.ckpt").touch()
    assert find_checkpoint(folder.parent, "last") == str(folder / "last.ckpt")
    assert find_checkpoint(folder.parent, "best") == str(folder / "best.ckpt")
    assert find_checkpoint(tmp_path, str(folder / "best.ckpt")) == str(folder / "best.ckpt")
    with pytest.raises(FileNotFoundError, match=r"two/checkpoints/last\.ckpt\. Name the run.* in .*/x: one\."):
        find_checkpoint(tmp_path / "x" / "two", "last")
    with pytest.raises(FileNotFoundError, match=r"leave --ckpt_path out\.$"):
        find_checkpoint(tmp_path / "y" / "two", "best")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint nowhere\.ckpt\. Give the path"):
        find_checkpoint(folder.parent, "nowhere.ckpt")


@pytest.mark.parametrize("name", ["a/b", "../x", "..", ""])
def test_names_stay_in_their_folder(name):
    for options in ({"name": name}, {"experiment": name}):
        with pytest.raises(ValueError, match="must be the name of one folder"):
            RunDirectory(**options)


def test_a_job_in_the_queue_again_goes_on_from_the_newest_checkpoint(tmp_path):
    again = {"SLURM_RESTART_COUNT": "1"}
    assert requeued_checkpoint(tmp_path, again) is None
    files = [tmp_path / "checkpoints" / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt", tmp_path / "hpc_ckpt_2.ckpt"]
    files[0].parent.mkdir()
    for path, time in zip(files, (200, 100, 300), strict=True):
        path.touch()
        os.utime(path, (time, time))
    assert requeued_checkpoint(tmp_path, again) == str(files[2])
    files[2].unlink()
    assert requeued_checkpoint(tmp_path, again) == str(files[0])
    for first in ({}, {"SLURM_RESTART_COUNT": "0"}, {"SLURM_RESTART_COUNT": ""}):
        assert requeued_checkpoint(tmp_path, first) is None
