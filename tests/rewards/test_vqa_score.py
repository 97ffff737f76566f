from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from hn.rewards import VqaScoreReward
from tests import tiny_vlms

PROMPTS = ["a red cube", 'two "quoted" balls,\non a table of any length', "a"]
MODELS = [tiny_vlms.qwen2_vl, tiny_vlms.qwen2_5_vl, tiny_vlms.llava_onevision]
PUBLISHED = 'Does this figure show "{}"? Please answer yes or no.'


def probabilities_by_hand(folder: Path, image: Tensor, question: str) -> Tensor:
    """Of every token [V] after one image [3, H, W] and its question: no padding, no generation."""
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    picture = {"type": "image", "image": Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy())}
    chat = [{"role": "user", "content": [picture, {"type": "text", "text": question}]}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        return model(**inputs).logits[0, -1].double().softmax(dim=0)


@pytest.mark.parametrize("write", MODELS)
def test_probability_of_yes(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    folder, images = write(tmp_path), torch.rand(3, 3, 40, 56)
    scores = VqaScoreReward(str(folder), dtype="float32")(images, PROMPTS)
    yes = tiny_vlms.tokenizer().convert_tokens_to_ids("Yes")
    rows = [probabilities_by_hand(folder, *pair) for pair in zip(images, map(PUBLISHED.format, PROMPTS), strict=True)]
    torch.testing.assert_close(scores.double(), torch.stack(rows)[:, yes], rtol=1e-4, atol=1e-8)
    assert scores.std() / scores.mean() > 0.02  # images and prompts count
    assert len({row.argmax().item() for row in rows} | {yes}) > 1


def test_several_answers_and_another_question(tmp_path: Path) -> None:
    folder, image = tiny_vlms.qwen2_vl(tmp_path), torch.rand(1, 3, 32, 32)
    reward = VqaScoreReward(str(folder), dtype="float32", template="{prompt}?", answers=["yes", " yes", "No", "yes"])
    ids = tiny_vlms.tokenizer().convert_tokens_to_ids(["yes", "Ġyes", "No"])
    expected = probabilities_by_hand(folder, image[0], "a red cube?")[ids].sum()
    torch.testing.assert_close(reward(image, ["a red cube"]).double(), expected[None], rtol=1e-4, atol=1e-8)


def test_sampling_and_repetition_penalties_of_the_repository_change_nothing(tmp_path: Path) -> None:
    folder, images = tiny_vlms.qwen2_vl(tmp_path), torch.rand(2, 3, 32, 32)
    reward = VqaScoreReward(str(folder))
    assert reward.model.generation_config.repetition_penalty == 1.05  # of the published repositories
    scores = reward(images, ["Yes Yes", "Yes"])  # tokens that the penalty would lower
    reward.model.generation_config.repetition_penalty = 1.0
    assert torch.equal(reward(images, ["Yes Yes", "Yes"]), scores)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("Yes", r"answers must be a list of words like \['Yes'\], not 'Yes'"),
        ([], "answers must be a list of words"),
        (["Yes", "Maybe"], r"An answer must be one token; of this tokenizer {'Maybe': 5} are more"),
    ],
)
def test_answers_are_single_tokens(tmp_path: Path, answers: list[str], message: str) -> None:
    (tiny_vlms.qwen2_vl(tmp_path) / "model.safetensors").unlink()  # said before weights are looked for
    with pytest.raises(ValueError, match=message):
        VqaScoreReward(str(tmp_path), answers=answers)


def test_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hf download Qwen/Qwen2-VL-2B-Instruct\n"):
        VqaScoreReward()
