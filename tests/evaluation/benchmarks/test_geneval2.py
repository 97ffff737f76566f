import json
import math

import pytest
import torch
from huggingface_hub import constants
from scipy.stats import gmean
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from hn.evaluation.benchmarks.base import ScoreGroup
from hn.evaluation.benchmarks.geneval2 import SoftTifaMetric, answer_forms, first_tokens, geometric_mean
from hn.rewards.vlm import eight_bits
from tests import tiny_vlms

ROWS = [
    {
        "prompt": "four red cows and a pig",
        "vqa_list": [["How many cows are in the image?", "four"], ["Are the cows red?", "Yes"], ["Any pigs?", "Yes"]],
        "skills": ["count", "attribute", "object"],
        "atom_count": 4,
    },
    {"prompt": "a pig", "vqa_list": [["Are there any pigs in the image?", "Yes"]]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_vlms.qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"))


def probabilities_by_hand(folder, image, question):
    """Of every token after one image and its question: no padding, no generation."""
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    content = [{"type": "image", "image": image}, {"type": "text", "text": f"{question} Answer in one word."}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        return model(**inputs).logits[0, -1].double().softmax(dim=0)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_means_of_the_answers_probabilities(folder, batch_size):
    metric, images = SoftTifaMetric(str(folder), dtype="float32", batch_size=batch_size), torch.rand(2, 3, 40, 56)
    tokenizer = tiny_vlms.tokenizer()
    yes = tokenizer.convert_tokens_to_ids(["Yes", "yes", "ĠYes", "Ġyes"])
    # Numbers are bytes to this tokenizer: four, Four, 4, and the space before any of them.
    four = tokenizer.convert_tokens_to_ids(["f", "F", "4", "Ġ"])
    for image, row, scores in zip(images, ROWS, metric.score(images, ROWS), strict=True):
        picture = torch.as_tensor(eight_bits(image[None])[0])
        expected = [
            probabilities_by_hand(folder, picture, question)[four if answer == "four" else yes].sum().item()
            for question, answer in row["vqa_list"]
        ]
        assert scores.details["atoms"] == pytest.approx(expected, rel=1e-4)
        assert scores.scores["soft_tifa_am"] == pytest.approx(sum(expected) / len(expected), rel=1e-4)
        assert scores.scores["soft_tifa_gm"] == pytest.approx(gmean(expected), rel=1e-4)


def test_answer_forms():
    words = {"three", "Three", " three", " Three", "3", " 3"}
    assert set(answer_forms("How many dogs are in the image?", "three")) == words
    assert set(answer_forms("How many dogs?", "twelve")) == {"twelve", "Twelve", " twelve", " Twelve"}
    assert set(answer_forms("Are the dogs red?", "Yes")) == {"Yes", "yes", " Yes", " yes"}
    tokenizer = tiny_vlms.tokenizer()
    assert first_tokens(tokenizer, ["yes", "score", "some"]) == sorted(tokenizer.convert_tokens_to_ids(["yes", "s"]))


def test_geometric_mean():
    assert geometric_mean([0.5, 0.125]) == pytest.approx(0.25) and geometric_mean([0.3, 0.0, 0.9]) == 0.0
    assert geometric_mean([1e-200, 1e-200]) == pytest.approx(1e-200)


def result(am, gm, atoms, **row):
    scores = {"soft_tifa_am": am, "soft_tifa_gm": gm}
    return {"scores": scores, "details": {"atoms": atoms}, "metadata": json.dumps({"prompt": "p", **row})}


def test_summary():
    results = [
        result(0.5, 0.4, [0.25, 0.75], skills=["count", "object"], atom_count=4, set="a"),
        result(0.9, 0.8, [0.85, 0.95], skills=["object", "object"], atom_count=3, set="b"),
        result(0.1, 0.0, [0.1], set="b"),
        result(0.4, 0.2, [0.4], skills=["count"], atom_count=4, set="b"),
    ]
    groups = SoftTifaMetric.summarize(results)
    assert [(group.name, group.n) for group in groups] == [
        ("all images", 4), ("a", 1), ("b", 3), ("skill count", 2), ("skill object", 3), ("3 atoms", 1), ("4 atoms", 2),
    ]  # fmt: skip
    expected = [
        {"soft_tifa_am": 1.9 / 4, "soft_tifa_gm": 1.4 / 4},
        {"soft_tifa_am": 0.5, "soft_tifa_gm": 0.4},
        {"soft_tifa_am": 1.4 / 3, "soft_tifa_gm": 1.0 / 3},
        {"soft_tifa_am": 0.65 / 2},
        {"soft_tifa_am": (0.75 + 0.85 + 0.95) / 3},
        {"soft_tifa_gm": 0.8},
        {"soft_tifa_gm": 0.3},
    ]
    assert [group.scores for group in groups] == [pytest.approx(scores) for scores in expected]
    assert SoftTifaMetric.summarize(results[2:3]) == [ScoreGroup("all images", 1, results[2]["scores"])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vqa_list": [["Are there pigs?"]]}, "'a pig': vqa_list must be pairs like"),
        ({"vqa_list": "Are there pigs?"}, "vqa_list must be pairs like"),
        ({"vqa_list": [["Are there pigs?", "No"]]}, "the right answer to 'Are there pigs.' is 'No', and Soft-TIFA"),
        ({"skills": ["count", "object"]}, "there are 1 questions and 2 skills"),
    ],
)
def test_rows_that_are_not_right(change, message):
    with pytest.raises(ValueError, match=message):
        SoftTifaMetric.check_rows([ROWS[0], ROWS[1] | change], {})


def test_rows_that_ask_nothing(folder):
    metric = SoftTifaMetric(str(folder), dtype="float32")
    scores = metric(torch.rand(2, 3, 32, 32), [{"prompt": "a pig"}, ROWS[1]])
    assert {name: math.isnan(score[0]) and score[1] > 0 for name, score in scores.items()} == {
        "soft_tifa_am": True, "soft_tifa_gm": True,
    }  # fmt: skip


def test_what_to_download(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hf download Qwen/Qwen3-VL-8B-Instruct"):
        SoftTifaMetric()
