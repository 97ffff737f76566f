import pytest
import torch
from huggingface_hub import constants
from transformers import Owlv2Processor

from hn.evaluation.detectors import Owlv2Detector
from hn.evaluation.geneval import VerdictOptions
from tests import tiny_benchmarks

ROWS = [
    {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 2}]},
    {"include": [{"class": "cup", "count": 1}], "exclude": [{"class": "cup", "count": 2}]},
    {"prompt": "nothing"},
]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return tiny_benchmarks.owlv2(tmp_path_factory.mktemp("owlv2"))


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 3, 48, 40)) / 255


def flat(detections):
    return [(name, found.box, found.score) for name, objects in detections.items() for found in objects]


def test_detections_are_those_of_transformers(arguments, images):
    """Image by image, in the words of its documentation; boxes cut by hand."""
    detector = Owlv2Detector(**arguments, floor=0.4)
    found = detector.detect_for(images, ROWS, VerdictOptions())
    assert found[0].keys() == {"cat", "dog"} and found[1].keys() == {"cup"} and found[2] == {}
    processor = Owlv2Processor.from_pretrained(arguments["pretrained"])
    for image, names, ours in zip(images, (["cat", "dog"], ["cup"]), found, strict=False):
        texts = [f"a photo of a {name}" for name in names]
        eight_bit = (255 * image).round().byte()
        inputs = processor(text=[texts], images=eight_bit, return_tensors="pt", max_length=40)
        with torch.no_grad():
            output = detector.model(**inputs)
        (result,) = processor.post_process_grounded_object_detection(output, 0.4, [(48, 40)], [names])
        expected = []
        for score, label, box in zip(result["scores"], result["text_labels"], result["boxes"].tolist(), strict=True):
            x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], 40.0), min(box[3], 48.0)
            if x0 < x1 and y0 < y1:
                expected.append((label, (x0, y0, x1, y1), score.item()))
        assert len(expected) > 3 and len(expected) == len(flat(ours))
        for name in names:
            wanted = sorted((row for row in expected if row[0] == name), key=lambda row: -row[2])
            for (_, box, score), detection in zip(wanted, ours[name], strict=True):
                assert detection.score == pytest.approx(score, abs=1e-5)
                assert detection.box == pytest.approx(box, abs=1e-3)


def test_names_without_rows_and_batches(arguments, images):
    names = ("cat", "dog", "red ball")
    together = Owlv2Detector(**arguments, names=names).detect(images)
    single = Owlv2Detector(**arguments, names=names, batch_size=1).detect(images)
    assert sum(len(flat(found)) for found in together) > 10
    for some, others in zip(together, single, strict=True):
        assert tuple(some) == names == tuple(others)
        for (name, box, score), (other, other_box, other_score) in zip(flat(some), flat(others), strict=True):
            assert name == other and score == pytest.approx(other_score, abs=1e-5)
            assert box == pytest.approx(other_box, abs=1e-3)
    assert all(score > 0.1 for found in together for _, _, score in flat(found))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 1.0}, "floor must be in"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"template": "a photo"}, "The template 'a photo' has no {name}"),
        ({"dtype": "int8"}, "Unknown dtype 'int8'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Owlv2Detector("nowhere", **options)


def test_what_to_download(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hf download google/owlv2-base-patch16-ensemble"):
        Owlv2Detector()
