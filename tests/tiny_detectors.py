"""Tiny random checkpoints of GenEval's detector, in their published layouts."""

from pathlib import Path
from typing import Any

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from hn.evaluation.detectors.coco import OBJECTS
from tests import tiny_rewards


def mask2former(folder: Path, labels: dict[int, str] | None = None, seed: int = 21) -> dict[str, Any]:
    """For Mask2FormerDetector: 12 queries that are sure of something, on a Swin of one block a stage."""
    labels = labels or dict(enumerate(OBJECTS))
    backbone = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=12,
        id2label=labels, label2id={name: number for number, name in labels.items()},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Mask2FormerForUniversalSegmentation(config)
        torch.nn.init.normal_(model.class_predictor.weight, std=2.0)
    model.save_pretrained(folder)
    return {"pretrained": str(folder), "short_side": 64, "long_side": 96}


def color_classifier(folder: Path) -> dict[str, Any]:
    """For ClipColorClassifier: an open_clip model of 32 x 32 images."""
    made = tiny_rewards.hpsv2(folder)
    return {"architecture": made["architecture"], "pretrained": str(folder / "HPS_v2.1_compressed.pt")}
