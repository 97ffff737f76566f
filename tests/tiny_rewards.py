"""Tiny random checkpoints of reward models in their published layouts.

Each function writes one to a folder and returns the arguments with which the public class loads it, as they stand under
`init_args` in a config. Images are 32 x 32 after preprocessing, ImageReward's 224 x 224.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BertTokenizer,
    BlipVisionConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Qwen2VLForConditionalGeneration,
)

from hn.rewards import (
    AestheticReward,
    ClipReward,
    HPSv2Reward,
    HPSv3Reward,
    ImageReward,
    OpenClipReward,
    PickScoreReward,
    Reward,
)
from hn.rewards.blip import BlipScorer
from hn.rewards.blip_checkpoint import CONFIG_FILE, WEIGHTS_FILE, published_state_dict, text_config
from tests import tiny_vlms
from tests.tiny_pipelines import WINDOW, WORDS, clip_tokenizer

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
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


def image_reward(folder: Path) -> dict[str, Any]:
    """For ImageReward: the published files, and a BERT tokenizer of WORDS."""
    size = bert_tokenizer(folder)
    config = {
        "model_type": "bert",
        "vocab_size": size + 2,  # [DEC] and [ENC]
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "encoder_width": 768,  # not the image tower's, as in the published file
        "add_cross_attention": True,
    }
    vision = BlipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=224,
        patch_size=32,
        layer_norm_eps=1e-6,
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = BlipScorer(vision, text_config(config, vision.hidden_size))
        for parameter in model.parameters():  # livelier than the towers' own initialisation
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.data = spread * torch.randn_like(parameter) + (parameter.data if parameter.ndim == 1 else 0)
    torch.save(published_state_dict(model), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return {"pretrained": str(folder), "tokenizer": str(folder)}


def bert_tokenizer(folder: Path, tokens: Sequence[str] = (*BERT_SPECIAL, *WORDS)) -> int:
    """Write a BERT tokenizer, whose ids are places in `tokens`, to a folder that is made; returns its size."""
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def vqa_score(folder: Path) -> dict[str, Any]:
    """For VqaScoreReward: a tiny Qwen2-VL."""
    return {"pretrained": str(tiny_vlms.qwen2_vl(folder))}


def unified_reward(folder: Path) -> dict[str, Any]:
    """For UnifiedReward: a tiny Qwen2.5-VL. It was never taught the published form of answers, hence the fallback."""
    return {"pretrained": str(tiny_vlms.qwen2_5_vl(folder)), "fallback": 1.0, "max_new_tokens": 4}


def hpsv3(folder: Path, seed: int = 14) -> dict[str, Any]:
    """For HPSv3Reward: the published file, bfloat16 but for the head, and a Qwen2-VL to take the processor from."""
    vlm = Qwen2VLForConditionalGeneration.from_pretrained(tiny_vlms.qwen2_vl(folder / "qwen2_vl"))
    vlm.resize_token_embeddings(vlm.config.text_config.vocab_size + 1)  # <|Reward|>
    width = vlm.config.text_config.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Sequential(
            *(nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05)),
            *(nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)),
        )
    state = {f"rm_head.{name}": tensor for name, tensor in head.state_dict().items()}
    state |= {tiny_vlms.hub_name(name): tensor.bfloat16() for name, tensor in vlm.state_dict().items()}
    save_file(state, folder / "HPSv3.safetensors")
    return {"pretrained": str(folder), "processor": str(folder / "qwen2_vl")}


def open_clip_of_hpsv2(folder: Path) -> dict[str, Any]:
    """For OpenClipReward: HPSv2's checkpoint as a file of weights."""
    written = hpsv2(folder)
    return {"architecture": written["architecture"], "pretrained": f"{written['pretrained']}/HPS_v2.1_compressed.pt"}


# Rewards with a network: the class, and what writes a checkpoint of it and returns the arguments for it.
TOWERS: dict[str, tuple[type[Reward], Callable[[Path], dict[str, Any]]]] = {
    "clip": (ClipReward, clip),
    "pickscore": (PickScoreReward, pickscore),
    "open_clip": (OpenClipReward, open_clip_of_hpsv2),
    "hpsv2": (HPSv2Reward, hpsv2),
    "aesthetic": (AestheticReward, aesthetic),
    "image_reward": (ImageReward, image_reward),
    "hpsv3": (HPSv3Reward, hpsv3),
}
