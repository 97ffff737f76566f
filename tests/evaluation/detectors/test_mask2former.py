import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Mask2FormerImageProcessor

from hn.evaluation.detectors import Mask2FormerDetector
from hn.evaluation.detectors.coco import OBJECTS
from hn.evaluation.detectors.mask2former import mask_boxes
from tests import tiny_detectors


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return tiny_detectors.mask2former(tmp_path_factory.mktemp("mask2former"))


@pytest.fixture
def images():
    return torch.rand(3, 3, 48, 40)


def flat(detections):
    return [(name, found) for name, objects in detections.items() for found in objects]


def test_instances_are_those_of_transformers_at_its_own_size(arguments):
    """Its post-processing is for 384 x 384 alone, where ours resizes nothing more."""
    detector = Mask2FormerDetector(**arguments | {"short_side": 384, "long_side": 384}, floor=0.01)
    images = torch.rand(2, 3, 384, 384)
    processor = Mask2FormerImageProcessor(do_resize=False, do_rescale=False)
    with torch.no_grad():
        output = detector.model(**processor(list(images), return_tensors="pt"))
    # As many pairs as there are queries are all that transformers looks at.
    detector.max_detections = detector.model.config.num_queries
    expected = processor.post_process_instance_segmentation(output, threshold=0.01, return_binary_maps=True)
    for found, wanted in zip(detector.detect(images), expected, strict=True):
        found = sorted(flat(found), key=lambda pair: -pair[1].score)
        order = sorted(wanted["segments_info"], key=lambda segment: -segment["score"])
        assert len(found) == len(order) > 3
        for (name, detection), segment in zip(found, order, strict=True):
            assert OBJECTS.index(name) == segment["label_id"]
            assert detection.score == pytest.approx(segment["score"], abs=2e-6)
            assert np.array_equal(detection.mask, wanted["segmentation"][segment["id"]].bool().numpy())


def test_masks_come_back_to_the_image(arguments, images):
    """The rule in plain loops: padding cut off before the second resize, mean probability, box of the mask."""
    detector = Mask2FormerDetector(**arguments, floor=0.0, max_detections=10**6)
    found = detector.detect(images[:1])[0]
    pixels = detector.preprocess(images[:1])  # 48 x 40 -> 77 x 64 -> 96 x 64
    assert pixels.shape == (1, 3, 96, 64) and (pixels[:, :, 77:] == 0).all() and pixels[:, :, 76].any()
    with torch.no_grad():
        output = detector.model(pixel_values=pixels)
    logits = functional.interpolate(output.masks_queries_logits, (96, 64), mode="bilinear")[:, :, :77]
    logits = functional.interpolate(logits, (48, 40), mode="bilinear")[0]
    probabilities = output.class_queries_logits[0].softmax(-1)
    expected = []
    for query, classes in zip(logits, probabilities, strict=True):
        inside = query > 0
        if inside.any():
            rows, columns = inside.nonzero().T
            box = (columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1)
            quality = query[inside].sigmoid().mean()
            expected += [(name, box, (classes[k] * quality).item()) for k, name in enumerate(OBJECTS)]
    expected.sort(key=lambda row: -row[2])
    seen = sorted(((n, d.box, d.score) for n, d in flat(found)), key=lambda row: -row[2])
    expected = [row for row in expected if row[2] > 1e-6]
    assert len(expected) > 80
    for (name, box, score), (other_name, other_box, other_score) in zip(expected[:40], seen[:40], strict=True):
        assert (name, box) == (other_name, other_box)
        assert score == pytest.approx(other_score, rel=1e-4)


def test_a_batch_is_its_images(arguments, images):
    whole = Mask2FormerDetector(**arguments, batch_size=3).detect(images)
    single = Mask2FormerDetector(**arguments, batch_size=1).detect(images)
    assert sum(len(flat(found)) for found in whole) > 5
    for some, others in zip(whole, single, strict=True):
        for (name, a), (other, b) in zip(flat(some), flat(others), strict=True):
            assert (name, a.box) == (other, b.box)
            assert a.score == pytest.approx(b.score, rel=1e-4)
            assert a.mask.shape == (48, 40) and a.mask.dtype == bool


def test_the_floor_and_the_number_of_pairs(arguments, images):
    low = flat(Mask2FormerDetector(**arguments, floor=0.0).detect(images)[0])
    high = flat(Mask2FormerDetector(**arguments, floor=0.2).detect(images)[0])
    assert 0 < len(high) < len(low) and all(found.score > 0.2 for _, found in high)
    assert sorted(f.score for _, f in high) == pytest.approx(sorted(f.score for _, f in low if f.score > 0.2))
    assert len(flat(Mask2FormerDetector(**arguments, floor=0.0, max_detections=2).detect(images)[0])) <= 2


def test_autocast_and_training_mode_change_nothing(arguments, images):
    detector = Mask2FormerDetector(**arguments)
    plain = detector.detect(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert detector.train().detect(images) == plain
    assert not any(module.training for module in detector.modules())
    assert not any(parameter.requires_grad for parameter in detector.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_finds_about_the_same(arguments, images, dtype):
    detectors = [Mask2FormerDetector(**arguments, dtype=name, floor=0.0) for name in ("float32", dtype)]
    assert detectors[1].model.dtype == getattr(torch, dtype)
    plain, half = (torch.zeros(len(images), len(OBJECTS)) for _ in range(2))
    for best, detector in zip((plain, half), detectors, strict=True):
        for number, detections in enumerate(detector.detect(images)):
            for name, found in detections.items():
                best[number, OBJECTS.index(name)] = max((d.score for d in found), default=0.0)
    there = plain > 0.1
    assert there.sum() > 10 and not torch.equal(plain, half)
    # masks of random weights hang on the last bit, so a few objects come and go
    assert (half - plain)[there].abs().median() < (0.03 if dtype == "bfloat16" else 0.003)


def test_the_published_sizes():
    detector = Mask2FormerDetector.__new__(Mask2FormerDetector)
    detector.short_side, detector.long_side = 800, 1333
    sizes = [(512, 512), (1024, 1024), (480, 640), (300, 1000), (768, 1344)]
    assert [Mask2FormerDetector._resized(detector, size) for size in sizes] == [
        (800, 800), (800, 800), (800, 1067), (400, 1333), (762, 1333),
    ]  # fmt: skip


def test_boxes_end_one_past_the_mask():
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 3, 0] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 6, 3], [0, 3, 1, 4], [0, 0, 0, 0]]


def test_what_cannot_be_is_refused(arguments, tmp_path):
    with pytest.raises(ValueError, match=r"floor must be in \[0, 1\), not 1"):
        Mask2FormerDetector(floor=1.0)
    with pytest.raises(ValueError, match="long_side at least short_side"):
        Mask2FormerDetector(short_side=900, long_side=800)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Mask2FormerDetector(str(tmp_path / "nowhere"))
    labels = {number: f"LABEL_{number}" for number in range(80)}
    other = tiny_detectors.mask2former(tmp_path / "other", labels)["pretrained"]
    with pytest.raises(ValueError, match="other cannot detect what GenEval's prompts ask for: .*no label for person"):
        Mask2FormerDetector(other)
