import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from transformers import BertTokenizer
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hn.evaluation.benchmarks.compbench import BlipVqaMetric
from hn.evaluation.benchmarks.compbench.blip_vqa import BlipVqa, plain_question
from tests import tiny_benchmarks
from tests.tiny_benchmarks import BLIP_TOKENS

ROWS = [
    {"prompt": "x", "noun_phrases": ["a red cube", "The ball"]},
    {"prompt": "y", "noun_phrases": ["green ball"]},
    {"prompt": "z", "noun_phrases": ["a ball", "a ball", "the red red green cube"]},
]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return tiny_benchmarks.blip_vqa(tmp_path_factory.mktemp("blip"))


def probability_by_hand(vqa, image, phrase):
    """From the losses that transformers' own forward pass gives for the answers "yes" and "no"; no padding."""
    size = image.shape[-1]
    words = [*phrase.lower().split(), "?"]
    begin, end = len(BLIP_TOKENS) + 1, BLIP_TOKENS.index("[SEP]")
    ids = torch.tensor([[begin, *(BLIP_TOKENS.index(word) for word in words), end]])
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    losses = []
    for word in ("yes", "no"):
        answer = torch.tensor([[len(BLIP_TOKENS), BLIP_TOKENS.index(word)]])
        options = {"attention_mask": torch.ones_like(ids), "interpolate_pos_encoding": size != 32}
        losses.append(vqa.model(ids, ((image - mean) / std)[None], labels=answer, **options).loss.double())
    yes, no = (torch.exp(-loss) for loss in losses)
    return (yes / (yes + no)).item()


@pytest.mark.parametrize("size", [None, 48])
def test_score_is_the_product_over_phrases(arguments, size):
    metric = BlipVqaMetric(**arguments | {"image_size": size})
    images = torch.rand(3, 3, size or 32, size or 32)  # nothing to resize
    found = metric.score(images, ROWS)
    everything = []
    for image, row, scores in zip(images, ROWS, found, strict=True):
        with torch.no_grad():
            expected = [probability_by_hand(metric.vqa, image, phrase) for phrase in row["noun_phrases"]]
        everything += expected
        assert [phrase for phrase, _ in scores.details["phrases"]] == row["noun_phrases"]
        assert [found for _, found in scores.details["phrases"]] == pytest.approx(expected, abs=1e-5)
        assert scores.scores == {"blip_vqa": pytest.approx(np.prod(expected), abs=1e-5)}
    assert max(everything) - min(everything) > 0.1


def test_batches_and_autocast_change_nothing(arguments):
    images = torch.rand(3, 3, 40, 50)
    (whole,) = BlipVqaMetric(**arguments)(images, ROWS).values()
    metric = BlipVqaMetric(**arguments, batch_size=2)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = metric(images, ROWS).values()
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
    assert metric.train().training is False and not any(p.requires_grad for p in metric.parameters())


def test_only_the_first_phrases_count(arguments):
    images = torch.rand(1, 3, 32, 32)
    metric = BlipVqaMetric(**arguments, max_phrases=2)
    (scores,) = metric.score(images, [ROWS[2]])
    assert [phrase for phrase, _ in scores.details["phrases"]] == ["a ball", "a ball"]


def test_images_are_squeezed_as_pillow_does(arguments):
    vqa = BlipVqa(arguments["pretrained"], None, None, "float32", None)
    pixels = (np.random.default_rng(0).random((90, 70, 3)) * 255).astype(np.uint8)
    expected = torch.tensor(np.array(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)))
    found = vqa.resize(torch.tensor(pixels).permute(2, 0, 1)[None] / 255)
    assert (255 * found[0].permute(1, 2, 0) - expected).abs().max() < 1.01
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    assert vqa.resize(edge).min() == 0 and vqa.resize(edge).max() == 1


def test_questions():
    assert plain_question('A "Red" car, (near) a #1 dog!?') == "a red car, near a 1 dog?"
    assert plain_question("one  two. ") == "one  two"
    assert plain_question(" ".join(map(str, range(60)))) == " ".join(map(str, range(50)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "image_size must be a multiple of 8, the patches, not 30"),
        ({"image_size": 0}, "image_size must be a multiple of 8"),
        ({"max_phrases": 0}, "max_phrases and batch_size must be at least 1, not 0 and 32"),
        ({"dtype": "int8"}, "Unknown dtype 'int8'"),
    ],
)
def test_wrong_options(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        BlipVqaMetric(**arguments | options)


def test_a_tokenizer_of_another_model(arguments, tmp_path):
    BertTokenizer(vocab={token: i for i, token in enumerate(BLIP_TOKENS[:-1])}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"has {len(BLIP_TOKENS) + 1} tokens with .DEC. and .ENC., but .* is for"):
        BlipVqaMetric(**arguments, tokenizer=str(tmp_path))
    others = [token for token in BLIP_TOKENS if token not in ("yes", "no")]
    BertTokenizer(vocab={token: i for i, token in enumerate([*others, "ja", "nein"])}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokens 'yes' and 'no'"):
        BlipVqaMetric(**arguments, tokenizer=str(tmp_path))


def test_weights_of_another_model(arguments, tmp_path):
    shutil.copytree(arguments["pretrained"], tmp_path, dirs_exist_ok=True)
    tiny_benchmarks.owlv2(tmp_path / "owl")
    shutil.copy(tmp_path / "owl" / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold the weights of a BlipForQuestionAnswering"):
        BlipVqaMetric(**arguments | {"pretrained": str(tmp_path)})


def test_what_to_download(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hf download Salesforce/blip-vqa-capfilt-large"):
        BlipVqaMetric()
