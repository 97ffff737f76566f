import pytest
import torch

from hn.rewards import RednessReward, RewardEnsemble
from hn.training.callbacks.collapse import RewardCollapse
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.last_checkpoint import LastCheckpoint

BASE = {"base_reward": 0.0, "base_held_out_reward": 1.0}


class Opposite(RednessReward):
    """What redness is not."""

    def forward(self, images, prompts):
        return -super().forward(images, prompts)


def alarms(callback, rewards, held_out=None, cmmd=None):
    """The validations, counted from 1, that an alarm comes at, and the alarms; an update is ten times the number."""
    found = {}
    for number, reward in enumerate(rewards, start=1):
        scores = {"reward": reward, **BASE}
        scores |= {} if held_out is None else {"held_out_reward": held_out[number - 1]}
        scores |= {} if cmmd is None else {"cmmd": cmmd[number - 1]}
        alarm = callback.look_at(10 * number, scores)
        found |= {} if alarm is None else {number: alarm}
    return found


def test_a_gain_that_is_lost_while_the_reward_rises_raises_one_alarm():
    # The best is at the second validation, a gain of 0.4; half of it is lost from the fourth on.
    held_out = [1.2, 1.4, 1.3, 1.15, 1.1, 1.0, 0.5, 0.0]
    found = alarms(RewardCollapse(patience=3), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], held_out)
    assert list(found) == [6]
    assert (
        "Update 60: this looks like reward hacking. Since update 20 the trained reward rose from 0.2 to 0.6, but the "
        "held-out reward fell from 1.4 to 1 (3 validations in a row)" in found[6]
    )


def test_a_run_that_never_gained_is_compared_with_the_base():
    found = alarms(RewardCollapse(patience=2), [0.5, 0.9, 0.99], [0.8, 0.5, 0.2])
    assert list(found) == [2]
    assert (
        "Since the base the trained reward rose from 0 to 0.9, but the held-out reward fell from 1 to 0.5" in found[2]
    )


@pytest.mark.parametrize(
    ("rewards", "held_out"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], [1.2, 1.4, 1.39, 1.35, 1.3]),  # little of the gain is lost
        ([0.1, 0.3, 0.3, 0.2, 0.1], [1.2, 1.4, 1.1, 1.0, 0.9]),  # the trained reward does not rise either
        ([0.1, 0.2, 0.3, 0.4, 0.5], [1.2, 1.4, 1.1, 1.0, 1.3]),  # it recovers
        ([0.1, 0.2, 0.3, 0.4, 0.5], [1.1, 1.2, 1.3, 1.4, 1.5]),
    ],
)
def test_other_courses_raise_none(rewards, held_out):
    assert alarms(RewardCollapse(patience=3), rewards, held_out) == {}


def test_the_distance_to_the_base_has_a_limit_of_its_own():
    course = ([0.1, 0.2, 0.3], [1.1, 1.2, 1.2], [0.1, 2.0, 3.0])
    assert alarms(RewardCollapse(patience=1), *course) == {}
    # At the second validation the held-out reward has its best: nothing has risen since.
    found = alarms(RewardCollapse(patience=1, max_cmmd=1.5), *course)
    assert list(found) == []
    found = alarms(RewardCollapse(patience=2, max_cmmd=1.5), [0.1, 0.2, 0.3], cmmd=[0.1, 2.0, 3.0])
    assert list(found) == [3]
    assert "the distance to the base's images is 3 (limit 1.5)" in found[3]


def test_a_run_that_goes_on_remembers():
    rewards, held_out = [0.1, 0.2, 0.3, 0.4, 0.5], [1.4, 1.0, 0.9, 0.8, 0.7]
    whole = RewardCollapse(patience=3)
    first, second = RewardCollapse(patience=3), RewardCollapse(patience=3)
    assert alarms(first, rewards[:2], held_out[:2]) == {}
    second.load_state_dict(first.state_dict())
    assert list(alarms(second, rewards[2:], held_out[2:])) == [2]
    assert list(alarms(whole, rewards, held_out)) == [4]


@pytest.mark.parametrize("options", [{"tolerance": 1.0}, {"tolerance": -0.1}, {"patience": 0}])
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match=r"tolerance must be in \[0, 1\) and patience at least 1"):
        RewardCollapse(**options)


@pytest.mark.parametrize("stop", [False, True])
def test_in_a_run(make_module, make_data, make_trainer, caplog, tmp_path, stop):
    """Redness is trained on; the held-out reward, its opposite, can but fall."""
    module = make_module(images_per_prompt=1, reward_weight=1e3, optimizer=lambda p: torch.optim.AdamW(p, lr=3e-2))
    module.reward = RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0}, {"other": Opposite()})
    watching = [Evaluation(), RewardCollapse(patience=2, stop=stop), LastCheckpoint()]
    trainer = make_trainer(callbacks=watching, max_steps=6, val_check_interval=1)
    trainer.fit(module, datamodule=make_data())
    assert caplog.text.count("this looks like reward hacking. Since the base") == 1
    assert (trainer.global_step < 6) == stop
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
