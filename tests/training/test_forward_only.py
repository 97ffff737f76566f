"""Training by forward passes alone, with the real trainer."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hn.generators.subspaces import LowFrequency
from hn.hypernets import LoraFinetune
from hn.hypernets.conv import ConvHypernet
from hn.rewards import RewardEnsemble
from hn.rewards.base import Reward
from hn.training.estimators import ScoreFunction
from hn.training.module import NoiseHypernetModule

OPTIONS = {"regulariser": "sum", "reward_weight": 100.0, "optimizer": lambda p: torch.optim.AdamW(p, 1e-3)}


def compact() -> ConvHypernet:
    return ConvHypernet(width=8, blocks=1, heads=1, grid=4, text_width=8)


class Verdict(Reward):
    """1 or 0: whether one corner is redder than the other. Counts its images, call by call."""

    differentiable = False

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def score(self, images, prompts):
        self.sizes.append(len(images))
        assert not torch.is_grad_enabled()
        return (images[:, 0, 0, 0] > images[:, 0, -1, -1]).float()


@pytest.fixture
def make(make_module):
    """A module that learns from verdicts, with the estimator's options."""

    def make(reward=None, estimator=None, **options) -> NoiseHypernetModule:
        module = make_module()
        ensemble = RewardEnsemble({"verdict": reward or Verdict()}, {"verdict": 1.0}, gradient_free=True)
        estimator = ScoreFunction(LowFrequency(2), **(estimator or {}))
        return NoiseHypernetModule(module.generator, compact(), ensemble, estimator=estimator, **{**OPTIONS, **options})

    return make


def weights(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.hypernet.trainable_state_dict().items()}


def test_a_verdict_without_gradients_trains(make, make_data, make_trainer):
    module = make()
    before = weights(module)
    make_trainer(limit_val_batches=0).fit(module, datamodule=make_data())
    assert module.reward.rewards["verdict"].sizes == [16, 16]  # 4 prompts, 4 samples, two updates
    changed = {name for name, value in weights(module).items() if not torch.equal(value, before[name])}
    assert any(name.startswith("out") for name in changed)


def test_parts_do_not_change_what_is_learned(make, make_data, make_trainer):
    learned = []
    for size in (None, 8):
        module = make(score_batch_size=size)
        make_trainer(limit_val_batches=0).fit(module, datamodule=make_data())
        learned.append(weights(module))
    assert module.reward.rewards["verdict"].sizes == [8, 8, 8, 8]
    torch.testing.assert_close(learned[0], learned[1])


def test_updates_of_the_same_batch_share_its_scores(make, make_data, make_trainer):
    module = make(estimator={"updates_per_batch": 3})
    make_trainer(max_steps=7, limit_val_batches=0, accumulate_grad_batches=2).fit(module, datamodule=make_data())
    # Two parts of 16 images each are scored for updates 0 to 2, 3 to 5 and 6.
    assert module.reward.rewards["verdict"].sizes == [16] * 6
    assert sorted(module.estimator.kept_scores()) == [0, 1]


@pytest.mark.parametrize("at", [3, 4])
def test_a_run_that_is_continued_between_updates_of_a_batch_is_the_same_run(
    make, make_data, make_trainer, tmp_path, at
):
    def run(steps: int, checkpoint=None) -> NoiseHypernetModule:
        module = make(estimator={"updates_per_batch": 2}, decay_steps=6, final_reward_weight=20.0)
        keep = ModelCheckpoint(tmp_path / str(steps), save_last=True, save_top_k=0, every_n_train_steps=1)
        trainer = make_trainer(max_steps=steps, limit_val_batches=0, callbacks=[keep])
        trainer.fit(module, datamodule=make_data(), ckpt_path=checkpoint, weights_only=True)
        return module

    whole = run(6)
    run(at)
    continued = run(6, tmp_path / str(at) / "last.ckpt")
    n_batches = 3 - (at + 1) // 2
    assert continued.reward.rewards["verdict"].sizes == [16] * n_batches
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(continued)[name]), name


def test_what_cannot_be_trained_this_way_is_refused(make_module, make):
    with pytest.raises(ValueError, match="a fine-tune does not change: train a fine-tune with"):
        make_module(LoraFinetune(rank=2), estimator=ScoreFunction(LowFrequency(2)))
    pathwise = make_module()
    verdicts = RewardEnsemble({"verdict": Verdict()}, {"verdict": 1.0}, gradient_free=True)
    module = NoiseHypernetModule(pathwise.generator, compact(), verdicts)
    with pytest.raises(ValueError, match="or train by forward passes alone, with --model.estimator"):
        module.check_training("32-true")
    with pytest.raises(ValueError, match="final_reward_weight needs decay_steps"):
        make(final_reward_weight=1.0)
    with pytest.raises(ValueError, match="both weights must be positive"):
        make(final_reward_weight=0.0, decay_steps=5)
