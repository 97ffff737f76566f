import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hn.rewards import RednessReward


def test_pure_colours() -> None:
    images = torch.zeros(4, 3, 2, 2)
    images[0, 0] = images[1, 1] = images[2, 2] = 1
    images[3] = 0.7
    assert RednessReward()(images, [""] * 4).tolist() == pytest.approx([1.0, -0.5, -0.5, 0.0], abs=1e-7)


def test_is_the_published_loss_with_the_sign_turned(fixtures: Path) -> None:
    expected = json.loads((fixtures / "rewards" / "rewards.json").read_text())["results"]["Redness"]
    images = load_file(fixtures / "rewards" / "features.safetensors")["red_raw_image"]
    scores = RednessReward()(images, [""] * 3)
    assert (-scores).tolist() == pytest.approx(expected["per_image"], abs=1e-6)
    assert -scores.mean().item() == pytest.approx(expected["loss"], abs=1e-6)
