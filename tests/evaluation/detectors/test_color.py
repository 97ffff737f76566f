import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from hn.evaluation.detectors import ClipColorClassifier
from hn.evaluation.detectors.color import crop_object
from hn.evaluation.geneval import COLORS, Detection
from tests import tiny_detectors, tiny_rewards


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return ClipColorClassifier(**tiny_detectors.color_classifier(tmp_path_factory.mktemp("clip")), batch_size=3)


@pytest.fixture
def crops():
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (40 + 3 * k, 30, 3), dtype=np.uint8) // (1 + k % 4))
        for k in range(8)
    ]


def test_colors_are_those_of_the_plain_computation(classifier, crops):
    """Image by image, text by text, by open_clip's own model, transform and tokenizer."""
    model = tiny_rewards.open_clip_model()
    transform = open_clip.image_transform(32, is_train=False)
    tokenizer = open_clip.SimpleTokenizer()
    names = ["cup", "dog", "cup", "dog", "cup", "cup", "dog", "bus"]
    expected, margins = [], []
    for crop, name in zip(crops, names, strict=True):
        with torch.no_grad():
            image = normalize(model.encode_image(transform(crop)[None]), dim=-1)[0]
            scores = []
            for color in COLORS:
                templates = f"a photo of a {color} {name}", f"a photo of a {color}-colored {name}"
                texts = [*templates, f"a photo of a {color} object"]
                mean = sum(normalize(model.encode_text(tokenizer([text])), dim=-1)[0] for text in texts) / 3
                scores.append((image @ (mean / mean.norm())).item())
        best = max(range(10), key=scores.__getitem__)
        margins.append(scores[best] - sorted(scores)[-2])
        expected.append(COLORS[best])
    assert min(margins) > 1e-6
    assert classifier.classify(crops, names) == expected


def test_texts_of_a_class_are_made_once(classifier, crops, monkeypatch):
    classifier.to("cpu")  # forgets them
    seen = []
    encode = classifier.clip.encode_prompts
    monkeypatch.setattr(classifier.clip, "encode_prompts", lambda texts: seen.append(texts) or encode(texts))
    for _ in range(2):
        classifier.classify(crops[:2], ["cup", "dog"])
    assert [len(texts) for texts in seen] == [30, 30]
    assert seen[0][:3] == ["a photo of a red cup", "a photo of a red-colored cup", "a photo of a red object"]
    assert classifier.classify([], []) == []


def test_the_crop_shows_the_object_alone():
    image = Image.fromarray(np.full((6, 8, 3), (200, 10, 20), dtype=np.uint8))
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:5] = True
    mask[1, 2] = False
    crop = np.asarray(crop_object(image, Detection((2.0, 1.0, 5.0, 4.0), 0.9, mask=mask)))
    assert crop.shape == (3, 3, 3)
    assert crop[0, 0].tolist() == [0x99] * 3 and (crop.reshape(9, 3)[1:] == (200, 10, 20)).all()
    whole = np.asarray(crop_object(image, Detection((1.0, 0.0, 5.0, 6.0), 0.9)))
    assert whole.shape == (6, 4, 3) and (whole == (200, 10, 20)).all()
    with pytest.raises(ValueError, match=r"a mask of \(8, 6\) is not of an image of \(6, 8\)"):
        crop_object(image, Detection((0, 0, 1, 1), 0.9, mask=mask.T))


def test_what_it_takes_from_the_hub():
    (repository,) = ClipColorClassifier.repositories({})
    assert repository.name == "timm/vit_large_patch14_clip_224.openai"
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ClipColorClassifier(batch_size=0)
