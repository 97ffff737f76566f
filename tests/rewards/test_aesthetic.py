import logging
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch.nn import functional
from transformers import CLIPModel

from hn.rewards import AestheticReward
from hn.rewards.aesthetic import AestheticHead
from tests import tiny_rewards

PUBLISHED = {  # of sac+logos+ava1-l14-linearMSE.pth
    "layers.0.weight": [1024, 768],
    "layers.0.bias": [1024],
    "layers.2.weight": [128, 1024],
    "layers.2.bias": [128],
    "layers.4.weight": [64, 128],
    "layers.4.bias": [64],
    "layers.6.weight": [16, 64],
    "layers.6.bias": [16],
    "layers.7.weight": [1, 16],
    "layers.7.bias": [1],
}


def test_the_head_takes_exactly_the_published_weights() -> None:
    with torch.device("meta"):
        head = AestheticHead(768)
    assert {name: list(tensor.shape) for name, tensor in head.state_dict().items()} == PUBLISHED


def test_score_is_that_of_the_whole_clip_and_the_published_head(tmp_path: Path) -> None:
    arguments = tiny_rewards.aesthetic(tmp_path)
    reward = AestheticReward(**arguments)
    images = torch.rand(3, 3, 32, 32)
    mean, std = reward.preprocess.mean.float(), reward.preprocess.std.float()
    model = CLIPModel.from_pretrained(arguments["pretrained"])
    features = model.get_image_features(pixel_values=(images - mean) / std).pooler_output
    expected = tiny_rewards.aesthetic_head().layers(functional.normalize(features, dim=-1)).squeeze(1)
    torch.testing.assert_close(reward(images, [""] * 3), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(reward.image_features(images), features.detach(), rtol=1e-5, atol=1e-6)
    assert reward.published_weight == 0.0


def test_the_image_tower_alone_is_loaded_without_complaints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = tiny_rewards.aesthetic(tmp_path)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        reward = AestheticReward(**arguments)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
    whole = {name for name, _ in CLIPModel.from_pretrained(arguments["pretrained"]).named_parameters()}
    own = {name for name, _ in reward.model.named_parameters()}
    assert own == {name for name in whole if name.startswith("vis")}


def test_a_head_in_half_precision_is_computed_in_full(tmp_path: Path) -> None:
    arguments = tiny_rewards.aesthetic(tmp_path)
    assert {p.dtype for p in AestheticReward(**arguments, dtype="float16").head.parameters()} == {torch.float32}


def test_other_heads_are_refused(tmp_path: Path) -> None:
    arguments = tiny_rewards.aesthetic(tmp_path)
    weights = tiny_rewards.aesthetic_head().state_dict()
    del weights["layers.7.bias"]
    torch.save(weights, arguments["head"])
    with pytest.raises(
        ValueError, match=r"does not hold the weights of the aesthetic head: 1 missing \(layers.7.bias\)"
    ):
        AestheticReward(**arguments)


def test_absent_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    arguments = tiny_rewards.aesthetic(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        AestheticReward(pretrained=arguments["pretrained"])
    command = "run:  hf download camenduru/improved-aesthetic-predictor sac+logos+ava1-l14-linearMSE.pth\n"
    assert command in str(caught.value)
    with pytest.raises(FileNotFoundError, match="run:  hf download openai/clip-vit-large-patch14\n"):
        AestheticReward(head=arguments["head"])
    for head in ("head.pth", f"{tmp_path}/head.pth"):
        with pytest.raises(
            FileNotFoundError, match=r"There is no file .*head.pth. Give the head's file.*\nhttps://github"
        ):
            AestheticReward(head=head, pretrained=arguments["pretrained"])
