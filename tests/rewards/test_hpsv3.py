import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLConfig, Qwen2VLModel

from hn.rewards import HPSv3Reward
from hn.rewards.hpsv3 import reward_head, split_state_dict
from tests import tiny_rewards
from tests.exactness import assert_close_to_rounding

FILE = "HPSv3.safetensors"


@pytest.fixture(scope="module")
def published(fixtures: Path) -> dict[str, Any]:
    """Checkpoint, inputs and outputs of the published implementation: see the fixture's README."""
    return load_file(fixtures / "hpsv3" / "expected.safetensors")


@pytest.fixture(scope="module")
def prompts(fixtures: Path) -> list[str]:
    return json.loads((fixtures / "hpsv3" / "prompts.json").read_text())


@pytest.fixture(scope="module")
def reward(fixtures: Path) -> HPSv3Reward:
    folder = str(fixtures / "hpsv3")
    return HPSv3Reward(folder, processor=folder, dtype="float32")


def test_the_published_scores(reward: HPSv3Reward, published: dict[str, Any], prompts: list[str]) -> None:
    scores = reward(published["images"].permute(0, 3, 1, 2) / 255, prompts)
    torch.testing.assert_close(scores, published["logits"][:, 0], rtol=0, atol=1e-5)
    assert (scores - published["logits"][:, 1]).abs().min() > 0.1  # the mean, not the deviation


def test_the_published_tokens_and_pixels(reward: HPSv3Reward, published: dict[str, Any], prompts: list[str]) -> None:
    inputs = reward.inputs(published["images"].permute(0, 3, 1, 2), [reward.question(prompt) for prompt in prompts])
    for ours, theirs, length in zip(inputs["input_ids"], published["input_ids"], published["lengths"], strict=True):
        assert torch.equal(ours[-length:], theirs[:length].long())  # padded on the left, published on the right
    assert torch.equal(inputs["pixel_values"][::37, ::40], published["pixel_values"])


def test_positions_are_counted_along_the_text(
    reward: HPSv3Reward, published: dict[str, Any], prompts: list[str]
) -> None:
    """With Qwen2-VL's rows and columns, scores would be others."""
    inputs = reward.inputs(published["images"].permute(0, 3, 1, 2), [reward.question(prompt) for prompt in prompts])
    with torch.no_grad():
        hidden = reward.model(**inputs).last_hidden_state[inputs["input_ids"] == reward.reward_id]
        assert (reward.head(hidden)[:, 0] - published["logits"][:, 0]).abs().max() > 0.1


def test_files_that_newer_versions_save(fixtures: Path, tmp_path: Path, reward: HPSv3Reward) -> None:
    shutil.copytree(fixtures / "hpsv3", tmp_path, dirs_exist_ok=True)
    renamed = {}
    for name, tensor in load_file(tmp_path / FILE).items():
        old, new = ("visual.", "model.visual.") if name.startswith("visual.") else ("model.", "model.language_model.")
        renamed[name.replace(old, new, 1)] = tensor
    assert "model.visual.merger.mlp.0.weight" in renamed and "model.language_model.norm.weight" in renamed
    save_file(renamed, tmp_path / FILE)
    images = torch.rand(1, 3, 32, 32)
    other = HPSv3Reward(str(tmp_path), processor=str(fixtures / "hpsv3"), dtype="float32")
    assert_close_to_rounding(other(images, ["a"]), reward(images, ["a"]))


def test_the_head_stays_in_full_precision(fixtures: Path) -> None:
    folder = str(fixtures / "hpsv3")
    reward = HPSv3Reward(folder, processor=folder)
    assert {p.dtype for p in reward.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in reward.head.parameters()} == {torch.float32}
    file = load_file(fixtures / "hpsv3" / FILE)
    assert torch.equal(reward.head[0].weight, file["rm_head.0.weight"])
    assert torch.equal(reward.model.language_model.embed_tokens.weight, file["model.embed_tokens.weight"])
    assert not any(tensor.is_meta for tensor in [*reward.parameters(), *reward.buffers()])
    assert reward.template.count("<|Reward|>") == 1 and "<|Reward|>" in reward._special_tokens()
    with pytest.raises(ValueError, match=r"has '<\|Reward\|>' in it"):
        reward(torch.rand(1, 3, 32, 32), ["a <|Reward|> cube"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rm_head.5.bias": None}, r"does not hold the weights of HPSv3's head: 1 missing \(5.bias\)"),
        ({"rm_head.6.bias": torch.ones(1)}, r"HPSv3's head: 1 unknown \(6.bias\)"),
        ({"rm_head.5.weight": torch.ones(4, 16)}, r"1 of another shape \(5.weight \[4, 16\] instead of \[2, 16\]\)"),
        ({"model.norm.weight": None}, r"weights of a Qwen2VLModel: 1 missing \(language_model.norm.weight\)"),
        ({"model.layers.7.x": torch.ones(1)}, r"Qwen2VLModel: 1 unknown \(language_model.layers.7.x\)"),
        ({"visual.blocks.0.norm1.bias": torch.ones(3)}, r"1 of another shape \(visual.blocks.0.norm1.bias"),
        ({"model.embed_tokens.weight": torch.ones(9, 16)}, r"is for 9 tokens, and the tokenizer of .* has 284"),
        ({"ranknet.weight": torch.ones(1)}, "does not hold the weights of HPSv3, which has no ranknet.weight"),
    ],
)
def test_weights_have_to_fit(fixtures: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    state = load_file(fixtures / "hpsv3" / FILE) | change
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / FILE)
    with pytest.raises(ValueError, match=message):
        HPSv3Reward(str(tmp_path), processor=str(fixtures / "hpsv3"))


def test_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r'hf download Qwen/Qwen2-VL-7B-Instruct --include "\*.json"'):
        HPSv3Reward()
    tiny = tiny_rewards.hpsv3(tmp_path / "tiny")
    with pytest.raises(FileNotFoundError, match="hf download MizzenAI/HPSv3 HPSv3.safetensors"):
        HPSv3Reward(processor=tiny["processor"])


def test_shapes_of_the_published_checkpoint() -> None:
    """Those that issue 15 of MizzenAI/HPSv3 shows, and the size of the file: 16.6 GB."""
    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 151658}
    text |= {"num_attention_heads": 28, "num_key_value_heads": 4}
    with torch.device("meta"):
        model = Qwen2VLModel(Qwen2VLConfig(text_config=text, vision_config={"hidden_size": 3584}))
        head = reward_head(3584)
    names = [
        *("visual.merger.mlp.2.weight", "visual.merger.mlp.2.bias", "model.embed_tokens.weight"),
        *("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight", "rm_head.0.weight"),
    ]
    trunk, _ = split_state_dict({name: torch.empty(0) for name in names}, Path(FILE))
    shapes = [list(model.state_dict()[name].shape) for name in trunk]
    assert shapes == [[3584, 5120], [3584], [151658, 3584], [3584, 3584], [512, 3584]]
    lm_head = 151658 * 3584
    size = 2 * (sum(p.numel() for p in model.parameters()) + lm_head) + 4 * sum(p.numel() for p in head.parameters())
    assert size == pytest.approx(16.6e9, rel=0.003)
