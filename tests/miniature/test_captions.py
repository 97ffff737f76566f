import random
from collections import Counter

import pytest

from hn.evaluation.geneval import Detection, evaluate
from hn.miniature.captions import (
    PARAPHRASES,
    Caption,
    captions_of,
    judging_pools,
    sample_caption,
    split_captions,
    training_pools,
    vocabulary_corpus,
)
from hn.miniature.world import TAGS

EXAMPLES = {
    "single_object": (
        Caption("single_object", ("ring",)),
        {
            "tag": "single_object",
            "include": [{"class": "ring", "count": 1}],
            "exclude": [],
            "prompt": "a photo of a ring",
        },
    ),
    "two_object": (
        Caption("two_object", ("star", "heart")),
        {
            "tag": "two_object",
            "include": [{"class": "star", "count": 1}, {"class": "heart", "count": 1}],
            "exclude": [],
            "prompt": "a photo of a star and a heart",
        },
    ),
    "counting": (
        Caption("counting", ("cross",), number=3),
        {
            "tag": "counting",
            "include": [{"class": "cross", "count": 3}],
            "exclude": [{"class": "cross", "count": 4}],
            "prompt": "a photo of three crosses",
        },
    ),
    "colors": (
        Caption("colors", ("square",), ("orange",)),
        {
            "tag": "colors",
            "include": [{"class": "square", "count": 1, "color": "orange"}],
            "exclude": [],
            "prompt": "a photo of an orange square",
        },
    ),
    "position": (
        Caption("position", ("circle", "cross"), relation="left of"),
        {
            "tag": "position",
            "include": [{"class": "cross", "count": 1}, {"class": "circle", "count": 1, "position": ["left of", 0]}],
            "exclude": [],
            "prompt": "a photo of a circle left of a cross",
        },
    ),
    "color_attr": (
        Caption("color_attr", ("diamond", "triangle"), ("black", "white")),
        {
            "tag": "color_attr",
            "include": [
                {"class": "diamond", "count": 1, "color": "black"},
                {"class": "triangle", "count": 1, "color": "white"},
            ],
            "exclude": [],
            "prompt": "a photo of a black diamond and a white triangle",
        },
    ),
}


@pytest.mark.parametrize("tag", TAGS)
def test_metadata_has_genevals_schema(tag: str) -> None:
    caption, row = EXAMPLES[tag]
    assert caption.metadata() == row


def test_left_of_means_that_the_first_object_has_the_smaller_x() -> None:
    caption = EXAMPLES["position"][0]
    left, right = Detection((2, 10, 10, 18), 1.0), Detection((20, 10, 28, 18), 1.0)
    assert evaluate({"circle": [left], "cross": [right]}, caption.metadata()).correct
    assert not evaluate({"circle": [right], "cross": [left]}, caption.metadata()).correct


def test_every_form_has_all_its_captions_and_no_text_twice() -> None:
    counts = {tag: len(list(captions_of(tag))) for tag in TAGS}
    assert counts == {
        "single_object": 8,
        "two_object": 8 * 7,
        "counting": 3 * 8,
        "colors": 10 * 8,
        "position": 8 * 7 * 4,
        "color_attr": 8 * 7 * 10 * 9,
    }
    texts = [caption.text() for tag in TAGS for caption in captions_of(tag)]
    assert len(set(texts)) == len(texts) == sum(counts.values())


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown tag 'colour'; GenEval's tags are single_object, two_object"):
        next(captions_of("colour"))


def test_other_openings() -> None:
    counting, single = EXAMPLES["counting"][0], EXAMPLES["single_object"][0]
    assert [counting.text(opening) for opening in ("an image of", "there is", "")] == [
        "an image of three crosses",
        "there are three crosses",
        "three crosses",
    ]
    assert single.text("") == "a ring"
    assert EXAMPLES["position"][0].text("there is", "on the left of") == "there is a circle on the left of a cross"


def test_paraphrases_say_the_same_in_known_words() -> None:
    known = {word for text in vocabulary_corpus() for word in text.split()}
    rng = random.Random(0)
    for caption, _ in EXAMPLES.values():
        texts = {caption.paraphrase(rng) for _ in range(300)}
        assert len(texts) == len(PARAPHRASES) * (2 if caption.relation else 1)
        assert {word for text in texts for word in text.split()} <= known


def test_splits_part_the_captions_of_every_form_but_single_objects() -> None:
    for tag in TAGS[1:]:
        parts = [set(split_captions(tag, split)) for split in ("train", "val", "test")]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) <= len(list(captions_of(tag)))
    assert split_captions("single_object", "val") == split_captions("single_object", "test")
    assert training_pools() == {tag: split_captions(tag, "train") for tag in TAGS}
    assert judging_pools() == {**training_pools(), "counting": list(captions_of("counting"))}


@pytest.mark.parametrize("tag", TAGS)
def test_flips_keep_the_form_and_change_the_meaning(tag: str) -> None:
    rng = random.Random(0)
    for caption in rng.choices(list(captions_of(tag)), k=50):
        flips = caption.flips(rng)
        assert len(flips) == 5 and caption not in flips
        assert {flip.tag for flip in flips} == {tag}
        assert len({flip.text() for flip in flips}) == 5


def test_on_a_diagonal_both_relations_may_hold() -> None:
    caption = EXAMPLES["position"][0]
    on_axis = caption.contradicted_flips(random.Random(0), (-1.0, 0.0))
    assert on_axis == caption.flips(random.Random(0))
    up_left = caption.contradicted_flips(random.Random(0), (-0.8, -0.6))
    assert set(on_axis) - set(up_left) == {Caption("position", ("circle", "cross"), relation="above")}


def test_captions_are_drawn_by_weight() -> None:
    rng, pools = random.Random(0), training_pools()
    weights = {"single_object": 1, "colors": 3, "position": 0}
    drawn = Counter(sample_caption(rng, pools, weights).tag for _ in range(2000))
    assert set(drawn) == {"single_object", "colors"}
    assert drawn["colors"] / 2000 == pytest.approx(0.75, abs=0.03)


def test_captions_of_one_meaning_are_equal_in_meaning():
    above, below = (
        Caption("position", pair, relation=r) for pair, r in ((("star", "ring"), "above"), (("ring", "star"), "below"))
    )
    assert above.meaning == below.meaning
    assert above.meaning != Caption("position", ("ring", "star"), relation="above").meaning
    one, other = (
        Caption("color_attr", *pair)
        for pair in ((("star", "ring"), ("red", "blue")), (("ring", "star"), ("blue", "red")))
    )
    assert one.meaning == other.meaning
    assert one.meaning != Caption("color_attr", ("star", "ring"), ("blue", "red")).meaning
    assert Caption("counting", ("star",), number=2).meaning != Caption("counting", ("star",), number=3).meaning
