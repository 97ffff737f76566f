"""What a comparison may be made of."""

import pytest

from hn.evaluation.comparison.options import Comparison, name_at
from hn.search import BestOfN


def test_steps_besides_the_generators_own():
    assert Comparison(steps=[4, 1, 2, 2]).more_steps(1) == [2, 4]
    assert Comparison(steps=[1, 2]).more_steps(4) == [1, 2]
    assert Comparison().more_steps(1) == []


def test_names_at_other_numbers_of_steps():
    assert name_at("base", 2) == "base_2_steps"
    assert name_at("finetune", 1) == "finetune_1_step"


@pytest.mark.parametrize("name", ["base", "hypernetwork_2_steps", "finetune_1_step", "", "..", "a/b", "reno_50@10"])
def test_a_search_cannot_be_called_like_a_method(name):
    with pytest.raises(ValueError, match="cannot name a search"):
        Comparison(searches={name: BestOfN(2)})


def test_names_that_only_begin_like_a_method_are_free():
    Comparison(searches={"hypernetwork_reno_5": None, "base_best_of_4": None})


def test_numbers_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"comparison.steps must be at least 1 each, not \[1, 0\]"):
        Comparison(steps=[1, 0])
    with pytest.raises(ValueError, match="comparison.gallery must not be negative, but is -1"):
        Comparison(gallery=-1)
