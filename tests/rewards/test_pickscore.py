import math
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import CLIPModel

from hn.rewards import ClipReward, PickScoreReward
from tests import tiny_rewards

PROMPTS = ["a red cube", "two blue ball"]


def test_is_the_logit_of_its_model(tmp_path: Path) -> None:
    arguments = tiny_rewards.pickscore(tmp_path)
    reward = PickScoreReward(**arguments)
    images = torch.rand(2, 3, 32, 32)
    mean, std = reward.preprocess.mean.float(), reward.preprocess.std.float()  # CLIP's: the folder names none
    assert mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    tokens = reward.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    model = CLIPModel.from_pretrained(arguments["pretrained"])
    expected = model(pixel_values=(images - mean) / std, **tokens).logits_per_image.diagonal()
    torch.testing.assert_close(reward(images, PROMPTS), expected.detach(), rtol=1e-4, atol=1e-4)
    assert reward.published_weight == 0.05


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_does_not_round_the_scale(tmp_path: Path, dtype: str) -> None:
    """bfloat16 has 4.59 for log 100, which would be 98.9."""
    arguments = tiny_rewards.pickscore(tmp_path)
    assert PickScoreReward(**arguments, dtype=dtype).multiplier() == pytest.approx(math.exp(4.6052), rel=1e-6)


def test_the_tokenizer_may_lie_beside_the_model(tmp_path: Path) -> None:
    arguments = tiny_rewards.pickscore(tmp_path)
    images = torch.rand(2, 3, 32, 32)
    expected = PickScoreReward(**arguments)(images, PROMPTS)
    tiny_rewards.clip_tokenizer().save_pretrained(arguments["pretrained"])
    beside = PickScoreReward(arguments["pretrained"], tokenizer=None)
    assert torch.equal(beside(images, PROMPTS), expected)
    assert torch.equal(ClipReward(arguments["pretrained"])(images, PROMPTS), expected)


def test_absent_weights_name_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="run:  hf download yuvalkirstain/PickScore_v1\n"):
        PickScoreReward()
    arguments = tiny_rewards.pickscore(tmp_path)
    with pytest.raises(FileNotFoundError, match="run:  hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K\n"):
        PickScoreReward(arguments["pretrained"])
