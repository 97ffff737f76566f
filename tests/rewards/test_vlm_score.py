from pathlib import Path

import pytest
import torch

from hn.rewards import VlmScoreReward
from tests import tiny_vlms

QUESTION = "Grade {prompt} with one number."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.qwen2_5_vl(tmp_path_factory.mktemp("qwen"), seed=13)


def test_the_number_in_a_greedy_answer(folder: Path) -> None:
    """The tiny model is made to write a number: of all tokens after a question only digits are possible."""
    reward = VlmScoreReward(str(folder), QUESTION, [r"^(\d{3})$"], max_new_tokens=3, dtype="float32")
    ids = tiny_vlms.tokenizer().convert_tokens_to_ids([*map(str, range(10))])
    bias = torch.full((reward.model.lm_head.out_features,), -1e4).index_fill(0, torch.tensor(ids), 0.0)
    reward.model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    reward.model.generation_config.repetition_penalty = 1.0
    images, prompts = torch.rand(3, 3, 40, 56), ["a red cube", "b", "a much longer prompt"]
    scores = reward(images, prompts)
    assert torch.equal(reward(images, prompts), scores) and len(set(scores.tolist())) > 1

    for image, prompt, score in zip(images, prompts, scores, strict=True):  # token by token, without `generate`
        inputs = reward.inputs((255 * image).round().byte()[None], [QUESTION.replace("{prompt}", prompt)])
        written = []
        for _ in range(3):
            with torch.no_grad():
                token = reward.model(**inputs).logits[0, -1].argmax().view(1, 1)
            written.append(token.item())
            inputs["input_ids"] = torch.cat([inputs["input_ids"], token], dim=1)
            for name in ("attention_mask", "mm_token_type_ids"):
                more = torch.full_like(token, int(name == "attention_mask"))
                inputs[name] = torch.cat([inputs[name], more.to(inputs[name].dtype)], dim=1)
        assert float(tiny_vlms.tokenizer().decode(written)) == score


def test_reading_answers(folder: Path) -> None:
    patterns = [r"Alignment: (\d+(?:\.\d+)?)", r"Style: (-?\d+)"]
    reward = VlmScoreReward(str(folder), QUESTION, patterns)
    assert reward.read("Style: 3\nAlignment: 2.5 Alignment: 9") == 2.75
    with pytest.raises(ValueError, match=r"answered 'Alignment: 4', in which .*Style.* finds no number.*`fallback`"):
        reward.read("Alignment: 4")
    assert VlmScoreReward(str(folder), QUESTION, patterns, fallback=-1).read("Alignment: 4") == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": ["("]}, r"'\(' is no regular expression"),
        ({"patterns": [r"\d"]}, r"has 0 groups; it needs one, around the number"),
        ({"patterns": [r"(\d)(\d)"]}, "has 2 groups"),
        ({"patterns": r"(\d)"}, "patterns must be a list of regular expressions"),
        ({"patterns": []}, "patterns must be a list"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"template": "Grade it."}, "has no {prompt}"),
    ],
)
def test_bad_options_are_refused_before_weights_are_looked_for(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VlmScoreReward(**{"pretrained": "/nowhere", "template": QUESTION, "patterns": [r"(\d)"]} | options)
