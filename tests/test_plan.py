"""`hn plan`."""

import re

import pytest

from hn.cli import main


@pytest.fixture
def plan(experiment, capsys):
    """What `hn plan` prints for the tiny experiment."""

    def call(*options: str) -> str:
        main(["plan", "--config", str(experiment), *options])
        return capsys.readouterr().out

    return call


def test_a_plan_names_the_parts_and_what_fits_and_leaves_no_run(plan, experiment):
    shown = plan("--gpu_memory", "[1, 2]", "--batch_size", "3")
    assert "tiny: one update at batch 3" in shown
    for part in (
        "unet",
        "vae",
        "text_encoder",
        "reward clip",
        "trained weights",
        "kept for the backward pass: decoder",
    ):
        assert part in shown
    batches = [int(n) for n in re.findall(r"^ +\d GiB +(\d+)$", shown, re.MULTILINE)]
    assert len(batches) == 2
    assert batches[1] > 1.9 * batches[0]
    assert not (experiment.parent / "runs").exists()


def test_the_batch_is_the_data_modules_and_a_gpu_that_is_too_small_is_said(plan):
    shown = plan("--gpu_memory", "[0.001]")
    assert re.search(r"all, at batch 4 +\d", shown)
    assert re.search(r"0.001 GiB +none", shown)


def test_bad_plans_are_refused(refuse, experiment):
    config = ["plan", "--config", str(experiment)]
    assert "not for 64-true" in refuse(*config, "--trainer.precision", "64-true")
    assert "at least 1" in refuse(*config, "--batch_size", "0")
    assert "did you mean --gpu_memory" in refuse(*config, "--gpu_memor", "3")
    assert "gpu_memory takes one GPU or more" in refuse(*config, "--gpu_memory", "[-3]")
