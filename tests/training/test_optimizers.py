"""Optimisers of other libraries, by class path."""

import pytest
import torch

from hn.cli import main

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
