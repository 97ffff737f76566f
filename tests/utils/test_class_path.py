import pytest

from hn.rewards import RednessReward, Reward
from hn.utils.class_path import class_path, import_class


def test_path_and_class_are_inverse() -> None:
    assert import_class(class_path(RednessReward), Reward) is RednessReward


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hn.rewards.nothing.Nothing", "No class at 'hn.rewards.nothing.Nothing'"),
        ("hn.rewards.redness.Nothing", "No class at 'hn.rewards.redness.Nothing'"),
        ("RednessReward", "give the full path"),
        ("collections.OrderedDict", "not a subclass of hn.rewards.base.Reward"),
        ("hn.rewards.contrastive.cosine_scores", "not a subclass of hn.rewards.base.Reward"),
    ],
)
def test_refuses_what_is_no_such_class(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        import_class(path, Reward)
