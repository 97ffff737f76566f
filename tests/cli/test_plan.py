"""`hn plan`."""

import re
import shutil

import pytest
from torch import nn

from hn.cli import main
from hn.rewards import Reward


@pytest.fixture
def plan(experiment, capsys):
    """What `hn plan` prints for the tiny experiment."""

    def call(*options: str) -> str:
        main(["plan", "--config", str(experiment), *options])
        return capsys.readouterr().out

    return call


@pytest.mark.slow
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
        "conditioning of prompts, as many as are remembered",
        "encoding new prompts, before that",
    ):
        assert part in shown
    batches = [int(n) for n in re.findall(r"^ +\d GiB +(\d+)$", shown, re.MULTILINE)]
    assert len(batches) == 2
    assert batches[1] > 1.9 * batches[0]
    assert not (experiment.parent / "runs").exists()


@pytest.mark.slow
def test_an_estimator_without_gradients_keeps_nothing_of_generator_and_rewards(plan):
    options = ["--model.estimator", "hn.training.estimators.ScoreFunction"]
    options += ["--model.estimator.subspace", "hn.generators.subspaces.LowFrequency"]
    shown = plan(*options, "--model.score_batch_size", "2", "--batch_size", "2")
    assert "temporary: generator, decoder and rewards, without gradients" in shown
    assert "kept for the backward pass: decoder" not in shown


@pytest.mark.slow
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
    assert "score_batch_size must be at least 1" in refuse(*config, "--model.score_batch_size", "0")


@pytest.mark.slow
def test_nothing_is_planned_from_weights(plan, experiment, tiny_checkpoints, tmp_path):
    """The same table where there are configurations and tokenizers alone."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoints, bare, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    assert plan("--vars.checkpoints", str(bare)) == plan()


def test_a_reward_whose_configuration_is_not_there_is_named(refuse, experiment, tiny_checkpoints, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoints, bare)
    (bare / "clip" / "config.json").unlink()
    message = refuse("plan", "--config", experiment, "--vars.checkpoints", bare)
    assert f"{bare / 'clip'} has no config.json" in message


@pytest.mark.slow
def test_offloaded_text_encoders_are_listed_apart(plan):
    shown = plan("--model.generator.init_args.offload_text_encoders", "true")
    assert re.search(r"text_encoder, on the CPU +\d", shown)
    assert not re.search(r"text_encoder +\d", shown)


class Watchful(Reward):
    """Looks at a value when it is made, as rewards of other people's may."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.scale = self.layer.bias.item()
        self.freeze()

    def score(self, images, prompts):
        return self.layer(images.mean(dim=(2, 3)))[:, 0] * self.scale


@pytest.mark.slow
def test_a_reward_that_needs_values_is_loaded(plan):
    shown = plan("--model.reward.init_args.rewards.clip", f"{{class_path: {__name__}.Watchful}}")
    assert re.search(r"reward clip +0\.00\n", shown)  # four numbers
