import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from hn.rewards import ImageReward
from tests import tiny_rewards

PROMPTS = ["a red cube", "two blue ball", "a photo of the green ball"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_rewards.image_reward(tmp_path_factory.mktemp("image_reward"))


@pytest.fixture(scope="module")
def reward(tiny: dict[str, Any]) -> ImageReward:
    return ImageReward(**tiny)


def count_tokenized(reward: ImageReward) -> list[list[str]]:
    """Prompts of each call of the tokenizer from now on."""
    calls, tokenizer = [], reward.tokenizer
    reward.tokenizer = lambda prompts, **options: (calls.append(prompts), tokenizer(prompts, **options))[1]
    return calls


def test_the_published_score_of_the_published_tokens(fixtures: Path, tmp_path: Path) -> None:
    """The prompt is made so that it has the stored ids: words at those places of the vocabulary."""
    shutil.copytree(fixtures / "imagereward", tmp_path, dirs_exist_ok=True)
    stored = load_file(tmp_path / "tiny_io.safetensors")
    ids = stored["input_ids"][0, : stored["attention_mask"].sum()].tolist()
    special = {0: "[PAD]", ids[0]: "[CLS]", ids[-1]: "[SEP]", 2: "[UNK]", 4: "[MASK]"}
    tokens = [special.get(i, f"word{i}") for i in range(48)]
    tiny_rewards.bert_tokenizer(tmp_path / "tokenizer", tokens)
    (tmp_path / "tiny_io.safetensors").unlink()

    reward = ImageReward(str(tmp_path), tokenizer=str(tmp_path / "tokenizer"), vision_heads=4)
    prompt = " ".join(tokens[i] for i in ids[1:-1])
    found = torch.stack(reward._tokens_of_prompts([prompt]))
    assert torch.equal(found[:, 0], stored["input_ids"]) and torch.equal(found[:, 1], stored["attention_mask"])
    scores = reward.score_pixels(stored["pixel_values_fp16"].float(), [prompt])
    torch.testing.assert_close(scores, stored["scores"][:, 0], atol=1e-5, rtol=0)


def test_score_is_that_of_preprocessed_pixels(reward: ImageReward) -> None:
    images = torch.rand(3, 3, 70, 50)
    scores = reward(images, PROMPTS)
    assert scores.shape == (3,) and scores.dtype == torch.float32
    assert torch.equal(scores, reward.score_pixels(reward.preprocess(images), PROMPTS))
    assert reward.preprocess.size == 224
    assert reward.preprocess.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert reward.preprocess.std.flatten().tolist() == pytest.approx([0.26862954, 0.26130258, 0.27577711])
    assert reward.score_pixels(torch.randn(2, 3, 224, 224), PROMPTS[:2]).shape == (2,)


def test_image_and_prompt_both_count(reward: ImageReward) -> None:
    images = torch.rand(2, 3, 64, 64)
    same_prompt = reward(images, ["a red cube"] * 2)
    same_image = reward(images[:1].expand(2, -1, -1, -1), ["a red cube", "two blue ball"])
    assert (same_prompt[0] - same_prompt[1]).abs() > 1e-3
    assert (same_image[0] - same_image[1]).abs() > 1e-3


def test_gradient_equals_finite_differences_and_reaches_no_parameter(tiny: dict[str, Any]) -> None:
    reward = ImageReward(**tiny, dtype="float64")
    images = torch.rand(1, 3, 40, 36, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(images)
    scores = reward(images, PROMPTS[:1])
    assert scores.dtype == torch.float64
    scores.sum().backward()
    h = 1e-5
    with torch.no_grad():
        difference = (reward(images + h * direction, PROMPTS[:1]) - reward(images - h * direction, PROMPTS[:1])) / 2 / h
    assert abs(difference.item()) > 1e-3
    assert (images.grad * direction).sum().item() == pytest.approx(difference.item(), rel=1e-6)
    parameters = list(reward.parameters())
    assert len(parameters) > 50 and all(p.grad is None and not p.requires_grad for p in parameters)


def test_gradient_checkpointing_changes_nothing(tiny: dict[str, Any], reward: ImageReward) -> None:
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    plain = reward(images, PROMPTS[:2])
    other = ImageReward(**tiny, gradient_checkpointing=True)
    calls: list[str] = []
    for name in ("visual_encoder.encoder.layers.0", "text_encoder.encoder.layer.0"):
        layer = other.model.get_submodule(name)
        next(layer.children()).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    checkpointed = other(images, PROMPTS[:2])
    assert torch.equal(plain, checkpointed)
    gradients = [torch.autograd.grad(scores.sum(), images)[0] for scores in (plain, checkpointed)]
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0
    assert len(calls) == 4  # recomputed in the backward pass


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_weights_give_full_precision_scores(
    tiny: dict[str, Any], reward: ImageReward, autocast: bool
) -> None:
    half = ImageReward(**tiny, dtype="bfloat16")
    images, prompts = torch.rand(8, 3, 64, 64), ["a red cube"] * 8
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores = half(images, prompts)
    assert scores.dtype == torch.float32
    assert (scores != scores.bfloat16()).any()
    torch.testing.assert_close(scores, reward(images, prompts), atol=0.1, rtol=0)
    torch.testing.assert_close(scores.mean(), reward(images, prompts).mean(), atol=0.05, rtol=0)


def test_a_whole_module_in_half_precision_still_gives_float32(tiny: dict[str, Any]) -> None:
    reward = ImageReward(**tiny).to(torch.bfloat16)
    assert reward(torch.rand(1, 3, 64, 64), PROMPTS[:1]).dtype == torch.float32


def test_half_precision_images_are_resized_in_full_precision(reward: ImageReward) -> None:
    images = torch.rand(1, 3, 64, 64).bfloat16()
    assert torch.equal(reward(images, PROMPTS[:1]), reward(images.float(), PROMPTS[:1]))


def test_prompts_are_tokenized_once_and_do_not_depend_on_each_other(tiny: dict[str, Any]) -> None:
    reward = ImageReward(**tiny)
    calls = count_tokenized(reward)
    images = torch.rand(3, 3, 32, 32)
    together = reward(images, ["a red cube", "two blue ball", "a red cube"])
    reward(images, ["two blue ball", "a red cube", "two blue ball"])
    assert calls == [["a red cube", "two blue ball"]]
    alone = ImageReward(**tiny)(images[1:2], ["two blue ball"])
    torch.testing.assert_close(alone, together[1:2])
    reward.to(torch.float64)  # tokens live where the weights do
    reward(images[:1], ["a red cube"])
    assert calls[1:] == [["a red cube"]]


def test_no_prompts_are_kept_with_a_cache_of_none(tiny: dict[str, Any]) -> None:
    reward = ImageReward(**tiny, prompt_cache_size=0)
    calls = count_tokenized(reward)
    for _ in range(2):
        reward(torch.rand(1, 3, 32, 32), ["a red cube"])
    assert len(calls) == 2


def test_special_tokens_and_the_length_of_prompts(reward: ImageReward) -> None:
    tokenizer = reward.tokenizer
    words = len(tokenizer) - 2
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("[DEC]", words)
    assert tokenizer.convert_tokens_to_ids("[ENC]") == words + 1 and "[ENC]" in tokenizer.all_special_tokens
    (ids, mask), (cut, whole) = reward._tokens_of_prompts(["A red ball.", "red " * 50])
    first, last, red = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.convert_tokens_to_ids("red")
    inside = tokenizer.convert_tokens_to_ids(["a", "red", "ball", "."])
    assert ids.tolist() == [first, *inside, last] + [tokenizer.pad_token_id] * 29  # [CLS] first, not [ENC]
    assert mask.tolist() == [1] * 6 + [0] * 29
    assert cut.tolist() == [first, *[red] * 33, last] and whole.tolist() == [1] * 35


def test_scores_made_in_inference_mode_leave_tokens_for_training(tiny: dict[str, Any]) -> None:
    reward = ImageReward(**tiny)
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        reward(images, PROMPTS[:1])
    images.requires_grad_(True)
    reward(images, PROMPTS[:1]).sum().backward()
    assert images.grad.abs().sum() > 0


def test_it_stays_in_eval_mode(tiny: dict[str, Any]) -> None:
    reward = ImageReward(**tiny)
    assert not any(module.training for module in reward.train().modules())


def test_missing_files_and_bad_options_are_reported(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown dtype 'fp32'"):
        ImageReward(**tiny, dtype="fp32")
    with pytest.raises(ValueError, match="capacity of 0 or more, not -1"):
        ImageReward(**tiny, prompt_cache_size=-1)
    with pytest.raises(ValueError, match="vision_heads must divide that, and 3 does not"):
        ImageReward(**tiny, vision_heads=3)
    with pytest.raises(FileNotFoundError, match="has no tokenizer_config.json"):
        ImageReward(tiny["pretrained"], tokenizer=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="has no med_config.json"):
        ImageReward(str(tmp_path), tokenizer=tiny["tokenizer"])
    shutil.copy(Path(tiny["pretrained"]) / "med_config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="has med_config.json but no ImageReward.pt"):
        ImageReward(str(tmp_path), tokenizer=tiny["tokenizer"])


def test_a_tokenizer_without_vocabulary_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    shutil.copy(Path(tiny["pretrained"]) / "tokenizer_config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json or vocab.txt; it holds tokenizer_config.json"):
        ImageReward(tiny["pretrained"], tokenizer=str(tmp_path))
    (tmp_path / "vocab.txt").write_text("\n".join((*tiny_rewards.BERT_SPECIAL, *tiny_rewards.WORDS)))
    reward = ImageReward(tiny["pretrained"], tokenizer=str(tmp_path))
    assert reward.tokenizer.get_vocab() == ImageReward(**tiny).tokenizer.get_vocab()


def test_a_tokenizer_or_text_tower_that_does_not_fit_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny_rewards.bert_tokenizer(tmp_path, (*tiny_rewards.BERT_SPECIAL, "a", "ball"))
    with pytest.raises(ValueError, match=r"has 9 tokens with \[DEC\] and \[ENC\], but .* is for 22"):
        ImageReward(tiny["pretrained"], tokenizer=str(tmp_path))
    config = json.loads((Path(tiny["pretrained"]) / "med_config.json").read_text())
    (tmp_path / "med_config.json").write_text(json.dumps(config | {"max_position_embeddings": 34}))
    with pytest.raises(ValueError, match="has room for 34 tokens; ImageReward's prompts have 35"):
        ImageReward(str(tmp_path), tokenizer=tiny["tokenizer"])


def test_the_published_repository_offline(
    tiny: dict[str, Any], reward: ImageReward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match="Cannot load 'zai-org/ImageReward'.*\n.*hf download zai-org/ImageReward\n"
    ):
        ImageReward()
    without = tmp_path / "without_tokenizer"
    without.mkdir()
    for name in ("ImageReward.pt", "med_config.json"):
        shutil.copy(Path(tiny["pretrained"]) / name, without)
    with pytest.raises(FileNotFoundError, match="hf download google-bert/bert-base-uncased\n"):
        ImageReward(str(without))
    arguments = {"revision": None, "tokenizer": None}

    def wanted(pretrained: Path | str, **changes: str) -> list[str]:
        return [
            found.name for found in ImageReward.repositories(arguments | {"pretrained": str(pretrained), **changes})
        ]

    assert wanted("zai-org/ImageReward") == ["zai-org/ImageReward", "google-bert/bert-base-uncased"]
    assert wanted("zai-org/ImageReward", tokenizer="me/bert") == ["zai-org/ImageReward", "me/bert"]
    assert wanted(without) == ["google-bert/bert-base-uncased"]
    assert wanted(tiny["pretrained"]) == []


def test_the_tokenizer_beside_the_weights_is_the_default(tiny: dict[str, Any], reward: ImageReward) -> None:
    beside = ImageReward(tiny["pretrained"])
    assert beside.tokenizer.get_vocab() == reward.tokenizer.get_vocab()


def test_the_published_repository_in_the_cache(
    tiny: dict[str, Any], reward: ImageReward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    repository = tmp_path / "models--zai-org--ImageReward"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copy(Path(tiny["pretrained"]) / "med_config.json", snapshot)
    with pytest.raises(FileNotFoundError, match="some of its files are not in the local cache"):  # a download cut short
        ImageReward(tokenizer=tiny["tokenizer"])
    shutil.copy(Path(tiny["pretrained"]) / "ImageReward.pt", snapshot)
    images = torch.rand(1, 3, 32, 32)
    cached = ImageReward(tokenizer=tiny["tokenizer"])
    assert torch.equal(cached(images, PROMPTS[:1]), reward(images, PROMPTS[:1]))
