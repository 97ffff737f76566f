import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from hn.evaluation.geneval import Detection, VerdictOptions, box_iou, evaluate, keep_detections, relations

CASES = Path(__file__).parents[1] / "fixtures" / "geneval" / "cases.jsonl.gz"


def load_cases() -> list[dict]:
    with gzip.open(CASES, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def detections_of(case: dict) -> dict[str, list[Detection]]:
    return {
        name: [Detection(tuple(d["box"]), d["score"], d["color"]) for d in found]
        for name, found in case["detections"].items()
    }


def red_dog_left_of_cat(**changes) -> tuple[dict, dict]:
    metadata = {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
    }
    metadata["include"][1].update(changes)
    detections = {
        "cat": [Detection((60, 0, 80, 20), 0.9, "black")],
        "dog": [Detection((0, 0, 20, 20), 0.9, "red")],
    }
    return detections, metadata


def test_verdicts_equal_the_official_script():
    cases = load_cases()
    assert len(cases) == 744
    wrong = []
    for case in cases:
        verdict = evaluate(detections_of(case), case["metadata"], VerdictOptions(**case.get("options", {})))
        expected = case["expected"]
        actual = {
            "correct": verdict.correct,
            "reason": verdict.reason,
            "kept": {name: len(kept) for name, kept in verdict.kept.items()},
        }
        if actual != expected:
            wrong.append((case["id"], actual, expected))
    assert wrong == []


def test_the_prompt_s_own_words_hold():
    detections, metadata = red_dog_left_of_cat()
    assert evaluate(detections, metadata).correct


def test_color_classifier_sees_only_the_objects_of_colored_clauses():
    asked = []

    def classify(class_name, objects):
        asked.append((class_name, len(objects)))
        return ["blue"] * len(objects)

    detections, metadata = red_dog_left_of_cat(color="red")
    detections["dog"].append(Detection((0, 0, 5, 5), 0.5))
    verdict = evaluate(detections, metadata, color_classifier=classify)
    assert asked == [("dog", 1)]
    assert verdict.reason == "expected red dog>=1, found 0 red; and 1 blue"


def test_colors_are_tallied_in_the_benchmark_s_order():
    boxes = [(0, 0, 1, 1)] * 4
    detections = {"dog": [Detection(b, 0.9, c) for b, c in zip(boxes, ("white", "green", "red", "green"), strict=True)]}
    metadata = {"tag": "colors", "include": [{"class": "dog", "count": 4, "color": "red"}]}
    assert evaluate(detections, metadata).reason == "expected red dog>=4, found 1 red; and 1 red, 2 green, 1 white"


def test_missing_color_is_an_error_not_a_verdict():
    detections, metadata = red_dog_left_of_cat(color="red")
    detections["dog"] = [Detection((0, 0, 20, 20), 0.9)]
    with pytest.raises(ValueError, match="colour of 'dog'"):
        evaluate(detections, metadata)


@pytest.mark.parametrize("position", [["next to", 0], ["left of", 1], ["left of", -1]])
def test_malformed_position_is_an_error(position):
    detections, metadata = red_dog_left_of_cat(position=position)
    with pytest.raises(ValueError, match="earlier include clause"):
        evaluate(detections, metadata)


def test_scores_are_compared_in_float32_and_strictly():
    found = {"dog": [Detection((0, 0, 1, 1), float(np.float32(0.3))), Detection((0, 0, 1, 1), 0.30000004)]}
    kept = keep_detections(found, "single_object", VerdictOptions())
    assert [d.score for d in kept["dog"]] == [0.30000004]


def test_of_equal_scores_the_later_comes_first():
    first, second = Detection((0, 0, 1, 1), 0.5), Detection((5, 5, 6, 6), 0.5)
    assert keep_detections({"dog": [first, second]}, None, VerdictOptions())["dog"] == [second, first]


def test_box_iou_counts_both_edges():
    assert box_iou((0, 0, 9, 9), (5, 0, 14, 9)) == np.float32(50) / np.float32(150)
    assert box_iou((0, 0, 9, 9), (10, 0, 19, 9)) == 0


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-50, 0, -40, 10), {"left of"}),
        ((50, 0, 60, 10), {"right of"}),
        ((0, -50, 10, -40), {"above"}),
        ((0, 50, 10, 60), {"below"}),
        ((50, 50, 60, 60), {"right of", "below"}),
        ((0, 0, 10, 10), set()),
        ((2, 0, 12, 10), set()),  # apart by exactly a tenth of both widths
    ],
)
def test_relations(box, expected):
    assert relations(box, (0, 0, 10, 10)) == expected
