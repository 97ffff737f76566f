"""Tiny random reward models in their published layouts, for the public constructors to load."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer, BlipVisionConfig

from hn.rewards.blip import BlipScorer
from hn.rewards.blip_checkpoint import CONFIG_FILE, WEIGHTS_FILE, published_state_dict, text_config
from tests.tiny_pipelines import WORDS

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def image_reward(folder: Path) -> dict[str, Any]:
    """Write `ImageReward.pt`, `med_config.json` and a BERT tokenizer of WORDS to a new folder.

    Returns:
        `ImageReward`'s arguments for it.
    """
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
