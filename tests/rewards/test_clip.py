import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from hn.rewards import ClipReward
from hn.rewards.contrastive import cosine_scores

PROMPTS = ["a red cube", "two blue ball", "a photo of the green ball"]


@pytest.fixture(scope="module")
def reward(tiny_clip_folder: Path) -> ClipReward:
    return ClipReward(str(tiny_clip_folder))


@pytest.fixture(scope="module")
def expected(fixtures: Path) -> dict[str, Any]:
    return json.loads((fixtures / "rewards" / "rewards.json").read_text())


@pytest.fixture(scope="module")
def features(fixtures: Path) -> dict[str, torch.Tensor]:
    return load_file(fixtures / "rewards" / "features.safetensors")


def test_the_published_clip_loss_from_features(expected, features) -> None:
    clip = expected["results"]["CLIP"]
    scores = clip["logit_scale_exp"] * cosine_scores(features["image_features"], features["text_features"])
    assert (100 - scores).tolist() == pytest.approx(clip["per_image"], abs=1e-4)
    assert (100 - scores.mean()).item() == pytest.approx(clip["loss"], abs=1e-4)


def test_the_published_hps_loss_from_features(expected, features) -> None:
    scores = cosine_scores(features["hps_image_features"], features["hps_text_features"])
    assert (1 - scores.mean()).item() == pytest.approx(expected["results"]["HPS"]["loss"], abs=1e-6)


def test_the_published_clip_loss_and_its_gradient_from_the_model(
    expected, shared_fixtures: Path, tiny_tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    model = CLIPModel(CLIPConfig(**expected["clip"]))
    model.load_state_dict(load_file(shared_fixtures / "rewards" / "clip.safetensors"))
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)  # not used: the fixture has token ids
    reward = ClipReward(str(tmp_path))

    stored = load_file(shared_fixtures / "rewards" / "rewards.safetensors")
    pixels = stored["pixel_values_fp16"].float().requires_grad_(True)
    image_features = reward.encode_pixels(pixels)
    text_features = reward.encode_tokens(stored["input_ids"], stored["attention_mask"])
    torch.testing.assert_close(image_features, stored["image_features"], atol=1e-4, rtol=0)
    torch.testing.assert_close(text_features, stored["text_features"], atol=1e-4, rtol=0)
    losses = 100 - reward.multiplier() * cosine_scores(image_features, text_features)
    clip = expected["results"]["CLIP"]
    assert losses.tolist() == pytest.approx(clip["per_image"], abs=1e-4)
    (gradient,) = torch.autograd.grad(losses.mean(), pixels)
    assert gradient.norm().item() == pytest.approx(clip["grad_norm"], rel=1e-5)


def test_score_is_that_of_the_whole_model(reward: ClipReward, tiny_clip_folder: Path) -> None:
    """CLIPModel's own logits, for images of its size normalised with the folder's mean and std."""
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.25, 0.3, 0.35)))
    model = CLIPModel.from_pretrained(tiny_clip_folder)
    tokens = CLIPTokenizer.from_pretrained(tiny_clip_folder)(PROMPTS, padding=True, return_tensors="pt")
    logits = model(pixel_values=(images - mean) / std, **tokens).logits_per_image.diagonal()
    torch.testing.assert_close(reward(images, PROMPTS), logits, atol=1e-4, rtol=1e-5)


def test_scales_are_multiples_of_the_cosine(tiny_clip_folder: Path) -> None:
    images = torch.rand(3, 3, 32, 32)
    logit, percent, cosine = (
        ClipReward(str(tiny_clip_folder), scale=scale)(images, PROMPTS) for scale in ("logit", "percent", "cosine")
    )
    scale = CLIPModel.from_pretrained(tiny_clip_folder).logit_scale.exp().detach()
    torch.testing.assert_close(logit, cosine * scale)
    torch.testing.assert_close(percent, logit / 100)
    assert cosine.abs().max() <= 1


def test_images_of_any_size_are_scored(reward: ClipReward) -> None:
    assert reward(torch.rand(2, 3, 70, 50), PROMPTS[:2]).shape == (2,)


def test_gradient_reaches_the_images_and_no_parameter(tiny_clip_folder: Path) -> None:
    reward = ClipReward(str(tiny_clip_folder))
    images = torch.rand(2, 3, 48, 40, requires_grad=True)
    reward(images, PROMPTS[:2]).sum().backward()
    assert images.grad.abs().sum() > 0
    parameters = list(reward.parameters())
    assert len(parameters) > 50 and all(p.grad is None and not p.requires_grad for p in parameters)


def test_gradient_equals_finite_differences(tiny_clip_folder: Path) -> None:
    reward = ClipReward(str(tiny_clip_folder), dtype="float64")
    images = torch.rand(1, 3, 36, 40, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(images)
    (gradient,) = torch.autograd.grad(reward(images, PROMPTS[:1]).sum(), images)
    h = 1e-6
    with torch.no_grad():
        difference = (reward(images + h * direction, PROMPTS[:1]) - reward(images - h * direction, PROMPTS[:1])) / 2 / h
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-6)


def test_prompts_are_encoded_once_and_do_not_depend_on_each_other(tiny_clip_folder: Path) -> None:
    reward = ClipReward(str(tiny_clip_folder))
    sizes: list[int] = []
    reward.model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    images = torch.rand(3, 3, 32, 32)
    together = reward(images, ["a red cube", "two blue ball", "a red cube"])
    again = reward(images, ["two blue ball", "a red cube", "two blue ball"])
    assert sizes == [2]
    assert not torch.equal(together, again)
    alone = ClipReward(str(tiny_clip_folder))(images[:1], ["a red cube"])
    torch.testing.assert_close(alone, together[:1])


def test_half_precision_images_are_resized_in_full_precision(reward: ClipReward) -> None:
    images = torch.rand(1, 3, 64, 64).bfloat16()
    torch.testing.assert_close(reward(images, PROMPTS[:1]), reward(images.float(), PROMPTS[:1]))


def test_published_mean_and_std_where_the_folder_has_none(
    tiny_clip_folder: Path, tiny_tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    CLIPModel.from_pretrained(tiny_clip_folder).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    reward = ClipReward(str(tmp_path / "model"), tokenizer=str(tmp_path / "tokenizer"))
    assert reward.preprocess.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_missing_weights_and_bad_options_are_reported(
    tmp_path: Path, tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        ClipReward(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="There is no folder data/miniature/clip.*run `make miniature`"):
        ClipReward("data/miniature/clip")
    with pytest.raises(ValueError, match="Unknown scale 'logits'"):
        ClipReward(str(tiny_clip_folder), scale="logits")
    with pytest.raises(ValueError, match="Unknown dtype"):
        ClipReward(str(tiny_clip_folder), dtype="fp32")


def test_a_tokenizer_without_vocabulary_is_refused(
    tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would make one of two tokens, and say nothing."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    shutil.copy(tiny_clip_folder / "tokenizer_config.json", folder)
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json or vocab.json; it holds tokenizer_config.json"):
        ClipReward(str(tiny_clip_folder), tokenizer=str(folder))
    bpe = json.loads((tiny_clip_folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json or merges.txt"):
        ClipReward(str(tiny_clip_folder), tokenizer=str(folder))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in bpe["merges"]))
    images = torch.rand(3, 3, 32, 32)
    expected = ClipReward(str(tiny_clip_folder))(images, PROMPTS)
    assert torch.equal(ClipReward(str(tiny_clip_folder), tokenizer=str(folder))(images, PROMPTS), expected)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / "models--me--tokenizer" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    shutil.copy(tiny_clip_folder / "tokenizer_config.json", snapshot)  # a download cut short
    with pytest.raises(FileNotFoundError, match="not in the local cache.\n.*run:  hf download me/tokenizer\n"):
        ClipReward(str(tiny_clip_folder), tokenizer="me/tokenizer")


def test_prompts_encoded_one_at_a_time_do_not_depend_on_each_other(tiny_clip_folder: Path) -> None:
    prompts = ["a red ball", "two cube", "the green cube left of a ball"]
    reward = ClipReward(str(tiny_clip_folder), encode_batch_size=1)
    sizes = []
    encode = reward.encode_tokens
    reward.encode_tokens = lambda ids, mask: (sizes.append(len(ids)), encode(ids, mask))[1]
    together = reward._features_of_prompts(prompts)
    assert sizes == [1, 1, 1]
    for prompt, features in zip(prompts, together, strict=True):
        assert torch.equal(reward._features_of_prompts([prompt])[0], features)
    several = ClipReward(str(tiny_clip_folder), encode_batch_size=2)._features_of_prompts(prompts)
    torch.testing.assert_close(several, together, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="encode_batch_size must be at least 1, not 0"):
        ClipReward(str(tiny_clip_folder), encode_batch_size=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_scores_of_a_half_precision_tower_are_not_quantised(tiny_clip_folder: Path, autocast: bool) -> None:
    reward = ClipReward(str(tiny_clip_folder), dtype="bfloat16", scale="cosine")
    images = torch.rand(8, 3, 32, 32)
    prompts = ["a red cube"] * 8
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores = reward(images, prompts)
        features = reward.image_features(images), torch.stack(reward._features_of_prompts(prompts))
    assert scores.dtype == torch.float32
    assert features[0].dtype == torch.bfloat16
    image, text = (torch.nn.functional.normalize(each.double()) for each in features)
    torch.testing.assert_close(scores.double(), (image * text).sum(1), rtol=0, atol=1e-6)
    assert (scores != scores.bfloat16()).any()
    reward.scale = "logit"
    assert reward(images, prompts).dtype == torch.float32
