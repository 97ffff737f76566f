import re

import pytest

from hn.evaluation.detectors.coco import OBJECTS, object_names

COCO = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
OTHER = COCO | {
    "motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "potted plant": "pottedplant",
    "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip


def test_there_are_the_eighty_objects_once():
    assert len(set(OBJECTS)) == len(OBJECTS) == 80
    assert (OBJECTS[0], OBJECTS[39], OBJECTS[79]) == ("person", "bottle", "toothbrush")


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
