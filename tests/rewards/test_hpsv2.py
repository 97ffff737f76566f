import json
from pathlib import Path

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch.nn import functional

from hn.rewards import HPSv2Reward
from hn.rewards.open_clip import build_model, read_architecture
from tests import tiny_rewards
from tests.exactness import assert_close_to_rounding

PROMPTS = ["a red cube", "two blue balls", "the green ball"]


def published_keys(fixtures: Path) -> dict[str, list[int]]:
    """Name -> shape, of the published checkpoint."""
    content = json.loads((fixtures / "hpsv2" / "keys.json").read_text())
    keys = dict(content["other"])
    for prefix, layers in content["layers"].items():
        for i in range(layers["count"]):
            keys |= {f"{prefix}.{i}.{name}": shape for name, shape in layers["of_each"].items()}
    return keys


def test_the_model_takes_exactly_the_published_weights(fixtures: Path) -> None:
    model = build_model(read_architecture("ViT-H-14").config)
    expected = published_keys(fixtures)
    assert len(expected) == 686
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == expected


@pytest.mark.parametrize("version", ["v2.1", "v2.0"])
def test_score_is_the_cosine_of_the_published_model(version: str, tmp_path: Path) -> None:
    """The published computation: normalised features of open_clip's model, their product; here at 32 pixels."""
    arguments = tiny_rewards.hpsv2(tmp_path, version, seed=len(version))
    model = tiny_rewards.open_clip_model(seed=len(version))
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    with torch.no_grad():
        image = functional.normalize(model.encode_image((images - mean) / std), dim=-1)
        text = functional.normalize(model.encode_text(open_clip.tokenize(PROMPTS)), dim=-1)
    torch.testing.assert_close(
        HPSv2Reward(**arguments)(images, PROMPTS), (image @ text.T).diagonal(), rtol=1e-5, atol=1e-6
    )


def test_weights_go_round_through_the_published_layout(tmp_path: Path) -> None:
    arguments = tiny_rewards.hpsv2(tmp_path / "first")
    reward = HPSv2Reward(**arguments)
    other = tmp_path / "second"
    other.mkdir()
    save_file(reward.model.state_dict(), other / "HPS_v2.1_compressed.safetensors")
    again = HPSv2Reward(**{**arguments, "pretrained": str(other)})
    images = torch.rand(3, 3, 32, 32)
    assert_close_to_rounding(again(images, PROMPTS), reward(images, PROMPTS))
    direct = HPSv2Reward(**{**arguments, "pretrained": str(other / "HPS_v2.1_compressed.safetensors")})
    assert_close_to_rounding(direct(images, PROMPTS), reward(images, PROMPTS))


def test_versions_are_kept_apart(tmp_path: Path) -> None:
    arguments = tiny_rewards.hpsv2(tmp_path, "v2.0")
    with pytest.raises(FileNotFoundError, match=r"has no HPS_v2.1_compressed.pt or .*; it holds HPS_v2_compressed.pt"):
        HPSv2Reward(**{**arguments, "version": "v2.1"})
    with pytest.raises(ValueError, match=r"Unknown version 'v2'"):
        HPSv2Reward(**{**arguments, "version": "v2"})


@pytest.mark.parametrize(("version", "file"), [("v2.1", "HPS_v2.1_compressed.pt"), ("v2.0", "HPS_v2_compressed.pt")])
def test_absent_weights_name_the_command(
    version: str, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"run:  hf download xswu/HPSv2 {file}\n"):
        HPSv2Reward(version)


def test_published_weight(tmp_path: Path) -> None:
    assert HPSv2Reward(**tiny_rewards.hpsv2(tmp_path)).published_weight == 5.0


def test_one_file_of_the_repository_is_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def wanted(**changes: str) -> list[str]:
        arguments = {"version": "v2.1", "architecture": "ViT-H-14", "pretrained": "xswu/HPSv2", "revision": None}
        return [found.command for found in HPSv2Reward.repositories(arguments | changes)]

    assert wanted() == ["hf download xswu/HPSv2 HPS_v2.1_compressed.pt"]
    assert wanted(version="v2.0") == ["hf download xswu/HPSv2 HPS_v2_compressed.pt"]
    assert wanted(pretrained=str(tmp_path)) == []
    snapshot = tmp_path / "models--xswu--HPSv2" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "HPS_v2.1_compressed.safetensors").touch()
    assert wanted() == ["hf download xswu/HPSv2 HPS_v2.1_compressed.safetensors"]  # what the cache has
