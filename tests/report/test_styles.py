"""Colours, marks and labels of methods."""

from hn.report.styles import COLORS, label_of, styles_of


def test_labels_are_words():
    assert label_of("base_2_steps") == "base, 2 steps"
    assert label_of("finetune_1_step") == "finetune, 1 step"
    assert label_of("best_of_50") == "best of 50"
    assert label_of("reno_50@10") == "reno 50, at 10"


def test_a_family_has_a_colour_and_its_members_have_marks():
    styles = styles_of(["base", "base_2_steps", "best_of_8", "best_of_50", "best_of_50@4", "hypernetwork"])
    assert styles["base"].slot == styles["base_2_steps"].slot
    assert len({styles[name].mark for name in ("best_of_8", "best_of_50", "best_of_50@4")}) == 3
    assert len({styles[name].color for name in ("base", "best_of_8", "hypernetwork")}) == 3


def test_known_families_look_the_same_in_every_comparison():
    one = styles_of(["base", "hypernetwork", "own_search", "reno_50"])
    other = styles_of(["base", "reno_50", "best_of_8", "hypernetwork", "zero_order_17"])
    assert all(one[name] == other[name] for name in ("base", "hypernetwork", "reno_50"))
    assert one["own_search"].slot not in {one[name].slot for name in ("base", "hypernetwork", "reno_50")}


def test_there_are_styles_for_any_number_of_families():
    styles = styles_of(["base", *(f"search{letter}" for letter in "abcdefghijkl")])
    assert {style.slot for style in styles.values()} <= set(range(len(COLORS)))
    assert len({styles[f"search{letter}"].slot for letter in "abcde"}) == 5
