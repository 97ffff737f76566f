"""Tiny random checkpoints of reward models in their published layouts.

Each function writes one to a folder and returns the arguments with which the public class loads it, as they stand under
`init_args` in a config. Images are 32 x 32 after preprocessing.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from tests.tiny_pipelines import WINDOW, clip_tokenizer

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.35)
FEATURES = 12
OPEN_CLIP = {
    "embed_dim": FEATURES,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def clip_model(seed: int = 2) -> CLIPModel:
    tokenizer = clip_tokenizer()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, **special, "vocab_size": len(tokenizer), "max_position_embeddings": WINDOW}
    vision = {**size, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=FEATURES, **special))


def clip(folder: Path, seed: int = 2) -> dict[str, Any]:
    """For ClipReward: a CLIPModel with its tokenizer and a preprocessor of its own mean and std."""
    clip_model(seed).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessor(image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)
    return {"pretrained": str(folder)}


def pickscore(folder: Path, seed: int = 5) -> dict[str, Any]:
    """For PickScoreReward: a CLIPModel with the published logit_scale, and a tokenizer in another folder."""
    model = clip_model(seed)
    nn.init.constant_(model.logit_scale, 4.6052)
    model.save_pretrained(folder / "model")
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    return {"pretrained": str(folder / "model"), "tokenizer": str(folder / "tokenizer")}


def hpsv2(folder: Path, version: str = "v2.1", seed: int = 6) -> dict[str, Any]:
    """For HPSv2Reward: the published file, and an open_clip config of its size."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(OPEN_CLIP))
    name = {"v2.1": "HPS_v2.1_compressed.pt", "v2.0": "HPS_v2_compressed.pt"}[version]
    torch.save({"epoch": 1, "name": "tiny", "state_dict": open_clip_model(seed).state_dict()}, folder / name)
    return {"version": version, "pretrained": str(folder), "architecture": str(folder / "tiny.json")}


def open_clip_model(seed: int = 6) -> open_clip.CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.CLIP(**OPEN_CLIP).eval()


def aesthetic(folder: Path, seed: int = 7) -> dict[str, Any]:
    """For AestheticReward: a CLIPModel, and the head as published, but for its input's width."""
    clip_model(seed).save_pretrained(folder / "clip")
    head = folder / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save(aesthetic_head(seed).state_dict(), head)
    return {"head": str(head), "pretrained": str(folder / "clip")}


def aesthetic_head(seed: int = 7) -> nn.Module:
    head = nn.Module()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head.layers = nn.Sequential(
            *(nn.Linear(FEATURES, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)),
            *(nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)),
        )
    return head.eval()
