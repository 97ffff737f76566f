"""What a comparison may be made of."""

import pytest

from hn.evaluation.comparison.options import Comparison, name_at
from hn.search import BestOfN, WarmStart


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


@pytest.mark.parametrize("name", ["base", "hypernetwork", "finetune_2_steps", "a@b", "a/b", ""])
def test_a_trained_network_cannot_be_called_like_a_method(name):
    with pytest.raises(ValueError, match="cannot name a trained network"):
        Comparison(trained={name: "runs/a/b/hypernet"})


def test_trained_networks_and_searches_have_different_names():
    searches = {"lora_8": BestOfN(8), "lora_2_steps": None}
    assert Comparison(searches, trained={"lora": "a", "lora_8": None}, finetune="b").networks == {
        "finetune": "b",
        "lora": "a",
    }
    for taken in ("lora_8", "lora_8_2_steps"):
        with pytest.raises(ValueError, match=f"'{taken}', which cannot name a .*: it is the key of the .* 'lora_8'"):
            Comparison({"lora_8": BestOfN(8)} if taken == "lora_8" else {}, trained={"lora_8": "a", taken: "b"})


def test_a_warm_start_begins_at_a_network_of_the_comparison():
    search = WarmStart(BestOfN(8), start="lora")
    Comparison({"from_lora": search}, trained={"lora": "a"}).check_starts()
    for trained in ({}, {"lora": None}):
        with pytest.raises(ValueError, match=r"searches.from_lora starts from 'lora', which is no .* \(hypernetwork\)"):
            Comparison({"from_lora": search}, trained=trained).check_starts()


def test_names_that_only_begin_like_a_method_are_free():
    Comparison(searches={"hypernetwork_reno_5": None, "base_best_of_4": None})


def test_numbers_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"comparison.steps must be at least 1 each, not \[1, 0\]"):
        Comparison(steps=[1, 0])
    with pytest.raises(ValueError, match="comparison.gallery must not be negative, but is -1"):
        Comparison(gallery=-1)
