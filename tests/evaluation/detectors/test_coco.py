import json
import re

import pytest
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from hn.evaluation.detectors.coco import OBJECTS, object_names

COCO = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
OTHER = COCO | {
    "motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "potted plant": "pottedplant",
    "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip


def test_there_are_the_eighty_objects_once():
    assert len(set(OBJECTS)) == len(OBJECTS) == 80
    assert (OBJECTS[0], OBJECTS[39], OBJECTS[79]) == ("person", "bottle", "toothbrush")


def test_they_are_coco_s_in_its_order_but_for_three_names():
    """torchvision lists the 91 numbers of COCO's annotations, those without an object as N/A."""
    listed = MaskRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    assert len(listed) == 91
    assert [COCO.get(name, name) for name in OBJECTS] == [n for n in listed if n not in ("__background__", "N/A")]


def test_they_are_the_official_names(shared_fixtures):
    official = shared_fixtures.parent / "prompts" / "geneval"
    if not official.is_dir():
        pytest.skip(f"GenEval's own files are not at {official}")
    assert list(OBJECTS) == (official / "object_names.txt").read_text().splitlines()
    rows = [json.loads(line) for line in (official / "evaluation_metadata.jsonl").read_text().splitlines()]
    asked = {clause["class"] for row in rows for key in ("include", "exclude") for clause in row.get(key, ())}
    assert len(rows) == 553 and asked <= set(OBJECTS)


@pytest.mark.parametrize("labels", [{}, COCO, OTHER], ids=["geneval", "coco", "other"])
def test_every_label_has_its_geneval_name(labels):
    given = {number: labels.get(name, name) for number, name in enumerate(OBJECTS)}
    assert object_names(given) == list(OBJECTS)


def test_stuff_is_no_object():
    assert object_names(dict(enumerate([*OBJECTS, "sky-other-merged"]))) == [*OBJECTS, None]


def test_labels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="no label for person, bicycle, .*trained on COCO's instances"):
        object_names({0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(ValueError, match=re.escape("no label for toothbrush; several labels for tv.")):
        object_names(dict(enumerate([*OBJECTS[:-1], "tvmonitor"])))
