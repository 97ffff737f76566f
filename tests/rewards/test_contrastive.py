"""Text features from files: the same scores without text towers."""

import inspect
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hn.cli.embed import embed_text_features
from hn.data.encodings.files import PromptFiles
from hn.rewards import ClipReward, RednessReward, Reward, RewardEnsemble
from hn.rewards.contrastive import ContrastiveReward
from tests.tiny_rewards import TOWERS

CPU = torch.device("cpu")
NAMES = ("clip", "pickscore", "open_clip", "hpsv2")
PROMPTS = ["a red cube", "two blue ball", "a photo of the green ball"]


def embed(reward: ContrastiveReward, root: Path) -> PromptFiles:
    files = PromptFiles(root, reward.text_fingerprint(reward.text_source), "text features")
    embed_text_features(files, lambda: reward, PROMPTS, CPU)
    return files


def n_parameters(reward: Reward) -> int:
    return sum(p.numel() for p in reward.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_and_gradients_are_the_same_without_the_text_tower(make, name: str, dtype: str, tmp_path: Path) -> None:
    plain, reward = (make(name, dtype=dtype, encode_batch_size=1) for _ in range(2))
    reward.use_files(embed(plain, tmp_path))
    text = {key for key in plain.state_dict() if "visual" not in key and "vision" not in key and "logit" not in key}
    assert text and plain.state_dict().keys() - text == reward.state_dict().keys()
    assert n_parameters(reward) < n_parameters(plain)
    found = []
    for each in (plain, reward):
        images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        scores = each(images, PROMPTS)
        found.append((scores.detach(), *torch.autograd.grad(scores.sum(), images)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert len(set(found[0][0].tolist())) == 3


@pytest.mark.parametrize("name", NAMES)
def test_what_identifies_features_is_known_without_loading_anything(make, name: str) -> None:
    reward, (kind, _) = make(name), TOWERS[name]
    parameters = inspect.signature(kind).parameters
    given = {key: value for key, value in reward.text_source.items() if key in parameters}
    arguments = {key: parameter.default for key, parameter in parameters.items()} | given
    fingerprint = kind.text_fingerprint(arguments)
    assert fingerprint == reward.text_fingerprint(reward.text_source)
    other = kind.text_fingerprint({**arguments, "dtype": "bfloat16"})
    assert {key for key in other if other[key] != fingerprint[key]} == {"dtype"}


def test_features_follow_the_rewards_data_type(make: Callable[..., ContrastiveReward], tmp_path: Path) -> None:
    plain, reward = (make("clip", encode_batch_size=1) for _ in range(2))
    reward.use_files(embed(plain, tmp_path))
    reward.to(torch.float64)
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    scores = reward(images, PROMPTS)
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(plain.to(torch.float64)(images, PROMPTS).tolist(), rel=1e-5)


def test_features_do_not_depend_on_autocast(make: Callable[..., ContrastiveReward]) -> None:
    expected = make("clip").encode_text(PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make("clip").encode_text(PROMPTS)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_prompts_that_are_not_there_are_named(make: Callable[..., ContrastiveReward], tmp_path: Path) -> None:
    embed(make("clip"), tmp_path)
    rewards, weights = {"clip": make("clip"), "redness": RednessReward()}, {"clip": 1, "redness": 0}
    ensemble = RewardEnsemble(rewards, weights, cache=str(tmp_path))
    ensemble.check_prompts(PROMPTS)
    message = "The reward clip: 'two cube' and 1 more prompts are not in .*, and the text encoders are not loaded"
    with pytest.raises(ValueError, match=message):
        ensemble.check_prompts(["two cube", *PROMPTS, "a cube"])
    with pytest.raises(ValueError, match="'two cube' is not in"):
        ensemble(torch.rand(1, 3, 32, 32), ["two cube"])


def test_other_weights_are_not_given_the_old_features(
    tiny_clip_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "files"
    files = embed(ClipReward(str(tiny_clip_folder)), root)
    moved = Path(shutil.copytree(tiny_clip_folder, tmp_path / "moved"))
    same = RewardEnsemble({"clip": ClipReward(str(moved))}, {"clip": 1}, cache=str(root))
    assert same.rewards["clip"].model.text_model is None  # a copy elsewhere is the same

    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1  # one bit of one weight
    weights.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="hn"):
        stale = RewardEnsemble({"clip": ClipReward(str(moved))}, {"clip": 1}, cache=str(root))
    assert stale.rewards["clip"].model.text_model is not None
    assert f"No text features of these text encoders in {root}" in caplog.text
    assert f"{files.folder} differs in weights" in caplog.text
    stale.check_prompts(["anything"])


def test_a_truncated_file_is_refused_and_written_anew(make: Callable[..., ContrastiveReward], tmp_path: Path) -> None:
    reward = make("hpsv2")
    files = embed(reward, tmp_path)
    (file,) = files.folder.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"00000.safetensors is damaged, perhaps truncated.*`hn embed"):
        RewardEnsemble({"hps": make("hpsv2")}, cache=str(tmp_path))
    embed(reward, tmp_path)
    assert file.read_bytes() == content


def test_a_cache_for_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing for `cache` to read: none of \['redness'\] has text features"):
        RewardEnsemble({"redness": RednessReward()}, {"redness": 1}, cache=str(tmp_path))
