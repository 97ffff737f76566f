import json
import os
import re
import shutil

import pytest

from hn.training.run_directory import (
    RunDirectory,
    find_checkpoint,
    remove_leftovers,
    requeued_checkpoint,
    require_no_run,
    timestamp,
)


def test_a_run_is_known_by_experiment_and_name(tmp_path):
    run = RunDirectory(str(tmp_path), "miniature", "one")
    assert run.path == tmp_path / "miniature" / "one"
    unnamed = RunDirectory(str(tmp_path))
    assert unnamed.path.parent == tmp_path / "unnamed"
    assert re.fullmatch(r"\d{4}(-\d\d){2}_\d\d(-\d\d){2}", unnamed.path.name)
    assert re.fullmatch(r"\d{4}(-\d\d){2}_\d\d(-\d\d){2}", timestamp())


def test_the_root_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDirectory("~/runs", "x", "one").path == tmp_path / "runs" / "x" / "one"


def test_a_folder_that_holds_a_run_is_told_from_what_a_killed_start_left(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    left = [checkpoints / "last.ckpt.0a.partial", tmp_path / "events.out.tfevents.1", tmp_path / "results_suite.json"]
    left += [tmp_path / "images" / "step_000002.png", tmp_path / "images" / "final.png"]
    stays = [tmp_path / "config.yaml", tmp_path / "images" / "00000" / "metadata.jsonl"]
    for path in (*left, *stays):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    require_no_run(tmp_path)
    remove_leftovers(tmp_path)
    assert [path.exists() for path in (*left[1:], *stays)] == [False] * 4 + [True] * 2
    for path, advice in (
        (tmp_path / "results.json", "choose another name, or remove it"),
        (checkpoints / "best.ckpt", "--ckpt_path best"),
        (checkpoints / "last.ckpt", "--ckpt_path last"),
    ):
        path.touch()
        with pytest.raises(ValueError, match=f"holds a run already; .*{advice}"):
            require_no_run(tmp_path)


def test_trained_weights_are_the_named_runs_or_the_newest(tmp_path):
    run = RunDirectory(str(tmp_path), "x")
    assert run.trained() is None
    for age, name in enumerate(("b", "c", "a")):
        folder = tmp_path / "x" / name / "hypernet"
        folder.mkdir(parents=True)
        os.utime(folder, (1000 - age, 1000 - age))
    (tmp_path / "x" / "compare_1").mkdir()
    assert run.trained() == tmp_path / "x" / "b" / "hypernet"
    # A copy is newer than what was trained last, and no less the older run.
    for name, hour, steps in (("c", "09", 3), ("a", "08", 2)):
        training = {"finished": f"2020-01-01T{hour}:00:00+00:00", "steps": steps}
        (tmp_path / "x" / name / "results.json").write_text(json.dumps({"training": training}))
    os.utime(tmp_path / "x" / "a" / "hypernet")
    shutil.rmtree(tmp_path / "x" / "b")
    assert run.trained() == tmp_path / "x" / "c" / "hypernet"
    assert run.trained(steps=2) == tmp_path / "x" / "a" / "hypernet"
    assert run.trained(steps=7) == tmp_path / "x" / "c" / "hypernet"
    (tmp_path / "x" / "a" / "results.json").write_text("{")  # damaged: the folder's time counts
    assert run.trained() == tmp_path / "x" / "a" / "hypernet"
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
