import pytest
import torch

from hn.evaluation.benchmarks.compbench import SpatialMetric
from hn.evaluation.benchmarks.compbench.spatial import (
    NEAR,
    Relation,
    SpatialOptions,
    best_detection,
    frame_scale,
    plain_iou,
    read_relation,
    relation_score,
    spatial_score,
)
from hn.evaluation.detectors import GenEvalDetector, Owlv2Detector
from hn.evaluation.geneval import Detection
from tests import tiny_benchmarks

SQUARE = (479, 479)  # what the official tool makes of a square: factors of 1


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a giraffe next to a lamp", Relation("giraffe", "next to", "lamp")),
        ("a mouse on side of a key", Relation("mouse", "on side of", "key")),
        ("a woman on the top of an Apple.", Relation("person", "on the top of", "apple")),
        ("the traffic light near girl", Relation("traffic light", "near", "person")),
        ("a dog in front of a desk", None),
        ("The fluffy cat is on the left of the soft pillow.", None),
        ("a red car", None),
        ("", None),
    ],
)
def test_prompts(prompt, expected):
    assert read_relation(prompt) == expected
    assert SpatialMetric.asks({"prompt": prompt}) is (expected is not None)


def box(x, y, size=40):
    """A square around a centre."""
    return (x - size / 2, y - size / 2, x + size / 2, y + size / 2)


@pytest.mark.parametrize(
    ("second", "holding"),
    [
        ((300, 220), "on the left of"),  # the second one lies to the right, so the first is on its left
        ((100, 180), "on the right of"),
        ((180, 300), "on the top of"),
        ((220, 100), "on the bottom of"),
        ((300, 300), None),  # as far down as right
        ((200, 200), None),
    ],
)
def test_a_direction_holds_where_the_offset_is_largest(second, holding):
    for relation in ("on the left of", "on the right of", "on the top of", "on the bottom of"):
        assert relation_score(box(200, 200), box(*second), relation, SQUARE) == (relation == holding)


def test_overlapping_boxes_count_less():
    first, second = (0, 0, 100, 100), (50, 0, 150, 100)  # IoU 5000 / 15000
    assert plain_iou(first, second) == pytest.approx(1 / 3)
    assert relation_score(first, second, "on the left of", SQUARE) == pytest.approx(0.3)
    assert relation_score(first, second, "on the left of", SQUARE, SpatialOptions(overlap=0.34)) == 1.0
    barely = (90, 0, 190, 100)  # 1000 / 19000
    assert relation_score(first, barely, "on the left of", SQUARE) == 1.0
    assert plain_iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0.0


@pytest.mark.parametrize("relation", NEAR)
def test_near_is_a_distance_on_one_axis(relation):
    assert relation_score(box(50, 50), box(450, 199), relation, SQUARE) == 1.0
    assert relation_score(box(50, 50), box(450, 200), relation, SQUARE) == pytest.approx(150 / 400)
    assert relation_score(box(50, 50), box(250, 350), relation, SQUARE) == pytest.approx(150 / 300)


def test_distances_are_those_in_the_official_frame():
    assert frame_scale((1024, 1024), 480) == (479 / 1024, 479 / 1024)
    assert frame_scale((512, 1024), 480) == (480 / 1024, 240 / 512)  # 479 x 958 would be too long
    assert frame_scale((1024, 768), 480) == (360 / 768, 480 / 1024)
    assert frame_scale((100, 100), 480) == (4.79, 4.79)
    # 300 pixels of 1024 are 140 of 479, and 330 are 154.
    assert relation_score(box(300, 300), box(600, 600), "near", (1024, 1024)) == 1.0
    assert relation_score(box(300, 300), box(630, 630), "near", (1024, 1024)) == pytest.approx(150 * 1024 / 479 / 330)


def test_score_of_an_image():
    first, second = Detection(box(100, 200), 0.8), Detection(box(300, 200), 0.6)
    assert spatial_score(first, second, "on the left of", SQUARE) == pytest.approx(0.25 * 1.4 + 0.5)
    assert spatial_score(first, second, "on the right of", SQUARE) == 0.0  # 0.35 is below a half
    assert spatial_score(first, second, "on the right of", SQUARE, SpatialOptions(least=0.3)) == pytest.approx(0.35)
    assert spatial_score(first, None, "next to", SQUARE, SpatialOptions(least=0)) == pytest.approx(0.2)
    assert spatial_score(None, None, "next to", SQUARE) == 0.0


def test_best_detection():
    found = {"dog": [Detection(box(1, 1), 0.2), Detection(box(2, 2), 0.7), Detection(box(3, 3), 0.7)]}
    assert best_detection(found, "dog", 0.1) is found["dog"][1]
    assert best_detection(found, "dog", 0.7) is None and best_detection(found, "cat", 0.1) is None


class Fixed:
    """Detects the same in every image."""

    classes = ("cat", "dog")

    def __init__(self, **found):
        self.found = found

    def detect(self, images):
        return [self.found] * len(images)


def test_scores_of_a_detector_of_fixed_classes():
    metric = SpatialMetric(Fixed(cat=[Detection(box(100, 200), 0.8)], dog=[Detection(box(300, 200), 0.6)]))
    rows = [{"prompt": f"a cat {relation} a dog"} for relation in ("on the left of", "on the right of")]
    left, right = metric.score(torch.rand(2, 3, *SQUARE), rows)
    assert left.scores == {"spatial": pytest.approx(0.85)} and right.scores == {"spatial": 0.0}
    assert left.details["relation"] == ["cat", "on the left of", "dog"]
    assert left.details["first"] == [80, 180, 120, 220, 0.8] and left.details["second"][-1] == 0.6
    scores = metric(torch.rand(3, 3, *SQUARE), [{"prompt": "a red car"}, *rows])["spatial"]
    assert scores[0].isnan() and scores[1:].tolist() == pytest.approx([0.85, 0.0])
    assert metric(torch.rand(1, 3, *SQUARE), [{"prompt": "a red car"}])["spatial"].isnan().all()
    with pytest.raises(ValueError, match="ask for frog, which the detector does not know; take one that finds what it"):
        metric.score(torch.rand(1, 3, *SQUARE), [{"prompt": "a cat near a frog"}])


def test_the_detector_is_asked_for_the_two_objects(tmp_path):
    detector = Owlv2Detector(**tiny_benchmarks.owlv2(tmp_path), floor=0.0)
    images, prompts = torch.rand(2, 3, 48, 40), ["a cat near a dog", "a boy next to a cup"]
    metric = SpatialMetric(detector, SpatialOptions(least=0.0))
    scored = metric.score(images, [{"prompt": prompt} for prompt in prompts])
    for image, prompt, scores in zip(images, prompts, scored, strict=True):
        relation = read_relation(prompt)
        row = {"include": [{"class": name, "count": 1} for name in (relation.first, relation.second)]}
        (found,) = detector.detect_for(image[None], [row], None)
        best = [best_detection(found, name, 0.1) for name in (relation.first, relation.second)]
        assert scores.scores["spatial"] == pytest.approx(
            spatial_score(*best, relation.relation, (48, 40), metric.options), abs=1e-5
        )
    assert len({scores.scores["spatial"] for scores in scored}) == 2
    assert all(scores.scores["spatial"] > 0 for scores in scored)


def test_colours_are_not_looked_at():
    class NoColors:
        def classify(self, crops, names):
            assert not crops
            return []

    found = {"cat": [Detection(box(100, 200), 0.8)], "dog": [Detection(box(300, 200), 0.6)]}
    metric = SpatialMetric(GenEvalDetector(Fixed(**found), NoColors()))
    assert metric.score(torch.rand(1, 3, *SQUARE), [{"prompt": "a cat near a dog"}])[0].scores["spatial"] > 0.8
