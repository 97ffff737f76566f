"""The miniature as its experiment has it, for benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hn.data import read_prompts
from hn.generators import DiffusersGenerator
from hn.hypernets import Hypernet, LoraHypernet
from hn.rewards import ClipReward, RewardEnsemble
from hn.training.module import NoiseHypernetModule

ROOT = Path(__file__).parents[1]
CHECKPOINTS = ROOT / "data" / "miniature"
TRAIN = ROOT / "data" / "prompts" / "miniature" / "train.jsonl"


def make_module(device: torch.device, rank: int = 32, seed: int = 0, **options: Any) -> NoiseHypernetModule:
    """Generator, hypernetwork and reward of experiments/miniature.yaml.

    Args:
        device: where it computes.
        rank: of the hypernetwork.
        seed: of its weights.
        options: `generator`, `hypernet` and `reward` with more arguments of these, or another hypernetwork; others are
            the module's.
    """
    own = {"pretrained": str(CHECKPOINTS / "pipeline"), "encode_batch_size": 1, **options.pop("generator", {})}
    generator = DiffusersGenerator(**own)
    clip = ClipReward(str(CHECKPOINTS / "clip"), scale="cosine", encode_batch_size=1, **options.pop("reward", {}))
    hypernet = options.pop("hypernet", {})
    hypernet = hypernet if isinstance(hypernet, Hypernet) else LoraHypernet(rank=rank, **hypernet)
    settings = {"regulariser": "mean", "noise_type": "inf", "optimizer": make_optimizer, "seed": seed, **options}
    return NoiseHypernetModule(generator, hypernet, RewardEnsemble({"clip": clip}, {"clip": 1.0}), **settings).to(
        device
    )


def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """That of experiments/miniature.yaml."""
    return torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.0)


def prompts(count: int) -> list[str]:
    """The first different training prompts."""
    return list(dict.fromkeys(row["prompt"] for row in read_prompts(TRAIN)))[:count]
