"""Objects and colours together, and the verdicts on them."""

import pytest
import torch

from hn.evaluation.detectors import (
    ClipColorClassifier,
    GenEvalDetector,
    Mask2FormerDetector,
    RowDetector,
    geneval_verdicts,
)
from hn.evaluation.detectors.coco import OBJECTS
from hn.evaluation.detectors.color import crop_object
from hn.evaluation.geneval import VerdictOptions, evaluate
from hn.utils.images import to_pil
from tests import tiny_detectors


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    objects = Mask2FormerDetector(**tiny_detectors.mask2former(folder / "mask2former"))
    return GenEvalDetector(objects, ClipColorClassifier(**tiny_detectors.color_classifier(folder / "clip")))


@pytest.fixture
def images():
    return torch.rand(2, 3, 48, 40)


def best_object(detections):
    return max(((d, name) for name, found in detections.items() for d in found), key=lambda pair: pair[0].score)


def test_objects_that_count_have_their_color(detector, images):
    found = detector.detect(images)
    plain = detector.detector.detect(images)
    assert found == [  # colours apart
        {n: [type(d)(d.box, d.score, f.color) for d, f in zip(ds, found[i][n], strict=True)] for n, ds in image.items()}
        for i, image in enumerate(plain)
    ]
    n_colored = 0
    for image, detections in zip(images, found, strict=True):
        for name, objects in detections.items():
            for d in objects:
                assert (d.color is not None) == (d.score > 0.3)
                if d.color is not None:
                    assert [d.color] == detector.color_classifier.classify([crop_object(to_pil(image), d)], [name])
                    n_colored += 1
    assert n_colored > 1


def test_verdicts_ask_only_for_colors_that_a_clause_names(detector, images, monkeypatch):
    (best, name), (_, other) = (best_object(found) for found in detector.detect(images))
    assert best.score > 0.3
    wrong = "red" if best.color != "red" else "blue"
    rows = [
        {"tag": "colors", "include": [{"class": name, "count": 1, "color": best.color}]},
        {"tag": "single_object", "include": [{"class": other, "count": 1}]},
    ]
    asked = []
    classify = detector.color_classifier.classify
    monkeypatch.setattr(
        detector.color_classifier, "classify", lambda crops, names: asked.extend(names) or classify(crops, names)
    )
    assert isinstance(detector, RowDetector)
    right, other_right = geneval_verdicts(detector, images, rows)
    assert right.correct and other_right.correct and asked == [name]
    rows[0]["include"][0]["color"] = wrong
    assert (
        geneval_verdicts(detector, images, rows)[0].reason
        == f"expected {wrong} {name}>=1, found 0 {wrong}; and 1 {best.color}"
    )
    assert geneval_verdicts(detector, images, [{"prompt": "x"}, {"prompt": "y"}]) == [None, None]


@pytest.mark.slow
def test_both_ways_give_the_same_verdicts(detector, images):
    complete = detector.detect(images)
    for threshold in (0.3, 0.5):
        options = VerdictOptions(threshold=threshold)
        for name in OBJECTS:
            row = {"tag": "colors", "include": [{"class": name, "count": 1, "color": "red"}]}
            verdicts = geneval_verdicts(detector, images, [row] * 2, options)
            expected = [evaluate(found, row, options) for found in complete]
            assert [(v.correct, v.reason) for v in verdicts] == [(v.correct, v.reason) for v in expected]


def test_what_it_takes_from_the_hub():
    names = [repository.name for repository in GenEvalDetector.repositories({})]
    assert names == ["facebook/mask2former-swin-small-coco-instance", "timm/vit_large_patch14_clip_224.openai"]
    given = {
        "detector": {"class_path": "x.Y", "init_args": {"pretrained": "some/thing"}},
        "color_classifier": {
            "class_path": "hn.evaluation.detectors.ClipColorClassifier",
            "init_args": {"architecture": "ViT-B-32", "pretrained": "openai"},
        },
    }
    names = [repository.name for repository in GenEvalDetector.repositories(given)]
    assert names == ["some/thing", "timm/vit_base_patch32_clip_224.openai"]
